package admin

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

//go:embed page/page.html
var pageHTML string

//go:embed page/page.css
var pageCSS string

//go:embed page/*.js
var pageScripts embed.FS

// scripts are the parts of the page's script, in order: one file of them.
var scripts = []string{"base", "figures", "sessions", "people", "refresh"}

// page is the status page in one piece, which asks for nothing but our own
// figures, and the policy that holds it to that.
var page, pagePolicy = buildPage()

func buildPage() (body, policy string) {
	script, style := "", pageCSS
	for _, name := range scripts {
		part, err := pageScripts.ReadFile("page/" + name + ".js")
		if err != nil {
			panic(err) // it was built in
		}
		script += string(part)
	}
	body = strings.Replace(strings.Replace(pageHTML, "/*STYLE*/", style, 1), "/*SCRIPT*/", script, 1)
	hash := func(text string) string {
		sum := sha256.Sum256([]byte(text))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return body, "default-src 'none'; script-src " + hash(script) + "; style-src " + hash(style) +
		"; img-src data:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
}

func (s *Server) page(w http.ResponseWriter, r *http.Request) {
	if !s.mayLook(w, r) {
		return
	}
	w.Header().Set("Content-Security-Policy", pagePolicy)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write([]byte(page)) // the client left: nothing to do
}

// status is what the page shows to whoever may look: figures, and nobody's name
// or target.
func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	if s.options.API.Status == nil {
		fail(w, NotFound("there is no status"))
		return
	}
	if s.mayLook(w, r) {
		writeJSON(w, http.StatusOK, s.options.API.Status())
	}
}

// mayLook asks for the token off loopback, as a browser can give it: as the
// password of any user.
func (s *Server) mayLook(w http.ResponseWriter, r *http.Request) bool {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if onLoopback(local) || s.authorized(r) == nil {
		return true
	}
	if errors.Is(s.authorized(r), ErrNotFound) {
		text(w, http.StatusForbidden, "the status page needs admin.token_file where it can be reached from other machines")
		return false
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="cleversocks: any user, the admin token as password", charset="UTF-8"`)
	text(w, http.StatusUnauthorized, "the token is missing or wrong")
	return false
}

func onLoopback(a net.Addr) bool {
	if a == nil || a.Network() == "unix" {
		return true
	}
	ap, err := netip.ParseAddrPort(a.String())
	return err == nil && ap.Addr().Unmap().IsLoopback()
}
