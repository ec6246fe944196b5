package admin

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// hostAllowed says whether a request may call the endpoint by this name. A
// page in a browser can make a name of its own point at us (DNS rebinding) and
// then read what we answer. It can do that with no address and with no name
// that the public DNS does not have; other names must be in the settings.
func (s *Server) hostAllowed(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if host == "" {
		return false
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	if !strings.Contains(host, ".") {
		return true // "localhost", a container's or a Kubernetes service's name
	}
	_, tld := cutLast(host, ".")
	return slices.Contains(privateNames, tld) || strings.HasSuffix(host, ".home.arpa") || strings.HasSuffix(host, ".cluster.local") ||
		slices.ContainsFunc(s.hosts(), func(h string) bool { return strings.EqualFold(h, host) })
}

// privateNames are the last labels of names that nobody can register: RFC
// 6761, RFC 6762, ICANN's "internal", and Kubernetes' short service names.
var privateNames = []string{"localhost", "local", "internal", "test", "svc"}

func cutLast(s, sep string) (before, after string) {
	i := strings.LastIndex(s, sep)
	return s[:i], s[i+len(sep):]
}

func (s *Server) hosts() []string {
	if s.options.Hosts == nil {
		return nil
	}
	return s.options.Hosts()
}

// probes are answered whatever the Host header says, or does not say: haproxy's
// plain check sends none, and a refusal there takes every replica out.
var probes = []string{"/healthz", "/readyz"}

// guarded refuses what a foreign page could have a browser send, before any
// handler sees it, and sets the headers that every answer has.
func (s *Server) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		if slices.Contains(probes, r.URL.Path) {
			next.ServeHTTP(w, r)
			return
		}
		if !s.hostAllowed(r.Host) {
			text(w, http.StatusMisdirectedRequest, "this name is not ours: call the endpoint by its address, or put the name into admin.hosts")
			return
		}
		if !s.sameOrigin(r) {
			text(w, http.StatusForbidden, "a page of another site may not ask this")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// sameOrigin is false for what a page of another site has a browser send.
// Programs send neither header. A reverse proxy may call us by another name than
// the browser called it: that one is in admin.hosts.
func (s *Server) sameOrigin(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
	case "cross-site", "same-site":
		// A link that a person follows is harmless: it shows the page.
		if r.Header.Get("Sec-Fetch-Mode") != "navigate" || r.Method != http.MethodGet || r.Header.Get("Sec-Fetch-Dest") != "document" {
			return false
		}
	default:
		return false
	}
	origin := r.Header.Get("Origin")
	if origin == "" || origin == "http://"+r.Host || origin == "https://"+r.Host {
		return true
	}
	from, err := url.Parse(origin)
	return err == nil && slices.ContainsFunc(s.hosts(), func(h string) bool { return strings.EqualFold(h, from.Hostname()) })
}
