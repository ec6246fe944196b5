package httpforward

import (
	"net/http"
	"strconv"
	"strings"

	"cleversocks/conn/wire/httpproxy"
)

// hopByHop are the fields that concern one connection alone, besides those
// that Connection names (RFC 9110 §7.6.1), and those that are written anew.
var hopByHop = map[string]bool{
	"connection": true, "proxy-connection": true, "keep-alive": true, "te": true, "trailer": true,
	"transfer-encoding": true, "upgrade": true, "proxy-authorization": true, "proxy-authenticate": true,
	"proxy-authentication-info": true, "host": true, "content-length": true,
}

// options are the names in Connection fields, in lower case.
func options(fields []httpproxy.Field) map[string]bool {
	var named map[string]bool
	for _, f := range fields {
		if !strings.EqualFold(f.Name, "Connection") && !strings.EqualFold(f.Name, "Proxy-Connection") {
			continue
		}
		for option := range strings.SplitSeq(f.Value, ",") {
			if named == nil {
				named = make(map[string]bool)
			}
			named[strings.ToLower(strings.TrimSpace(option))] = true
		}
	}
	return named
}

// appendEndToEnd appends the fields that are not for one connection alone.
func appendEndToEnd(b []byte, fields []httpproxy.Field, named map[string]bool) []byte {
	for _, f := range fields {
		if name := strings.ToLower(f.Name); !hopByHop[name] && !named[name] {
			b = appendField(b, f)
		}
	}
	return b
}

func appendField(b []byte, f httpproxy.Field) []byte {
	b = append(b, f.Name...)
	b = append(b, ": "...)
	b = append(b, f.Value...)
	return append(b, "\r\n"...)
}

// upgradeOf is what the client would go over to.
func upgradeOf(h *httpproxy.Head) (string, bool) {
	value, ok := h.Get("Upgrade")
	return value, ok && h.Minor >= 1 && options(h.Fields)["upgrade"]
}

// maxForwards is how many proxies a TRACE or OPTIONS may pass (RFC 9110
// §7.6.2).
func maxForwards(h *httpproxy.Head) (n int, limited bool) {
	if h.Method != http.MethodTrace && h.Method != http.MethodOptions {
		return 0, false
	}
	value, ok := h.Get("Max-Forwards")
	n, err := strconv.Atoi(value)
	return n, ok && err == nil && n >= 0
}

// requestHead is the request's head as the server gets it.
func (x *exchange) requestHead(v *server) []byte {
	h, parent, origin := x.head, v.conn.Parent, x.to.Origin
	b := make([]byte, 0, h.Size+256)
	b = append(append(b, h.Method...), ' ')
	host := x.to.Host
	if parent != nil {
		if parent.Authority != "" {
			host = parent.Authority
		}
		b = append(append(b, "http://"...), host...)
		if origin == "*" {
			origin = "" // the last proxy writes it so (RFC 9112 §3.2.4)
		}
	}
	b = append(b, origin...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(append(b, host...), "\r\n"...)
	named := options(h.Fields)
	if n, limited := maxForwards(h); limited {
		b = append(strconv.AppendInt(append(b, "Max-Forwards: "...), int64(n-1), 10), "\r\n"...)
		if named == nil {
			named = make(map[string]bool)
		}
		named["max-forwards"] = true
	}
	b = appendEndToEnd(b, h.Fields, named)
	if _, given := h.Get("Authorization"); x.to.Login != nil && !given {
		// As squid does: the server cannot see what was before the host.
		b = append(x.to.Login.AppendBasic(append(b, "Authorization: "...)), "\r\n"...)
	}
	if parent != nil && parent.Authorization != "" {
		b = append(append(append(b, "Proxy-Authorization: "...), parent.Authorization...), "\r\n"...)
	}
	if te, ok := h.Get("TE"); ok && named["te"] && strings.Contains(strings.ToLower(te), "trailers") {
		b = append(b, "TE: trailers\r\nConnection: TE\r\n"...) // trailers pass here
	}
	switch {
	case h.Chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case h.HasLength:
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), h.Length, 10), "\r\n"...)
	}
	if protocol, ok := upgradeOf(h); ok {
		b = append(append(append(b, "Connection: Upgrade\r\nUpgrade: "...), protocol...), "\r\n"...)
	}
	return append(b, "\r\n"...)
}

// appendInterim appends an interim answer.
func appendInterim(b []byte, a *httpproxy.Answer) []byte {
	b = appendStatusLine(b, a)
	b = appendEndToEnd(b, a.Fields, options(a.Fields))
	return append(b, "\r\n"...)
}

func appendStatusLine(b []byte, a *httpproxy.Answer) []byte {
	version := "HTTP/1.1 "
	if a.ICY {
		version = "ICY "
	}
	b = append(b, version...)
	b = strconv.AppendInt(b, int64(a.Status), 10)
	b = append(append(b, ' '), a.Reason...)
	return append(b, "\r\n"...)
}

// appendAnswerHead appends a final answer's head as the client gets it.
func appendAnswerHead(b []byte, a *httpproxy.Answer, code coding, h *httpproxy.Head, goesOn bool) []byte {
	b = appendStatusLine(b, a)
	b = appendEndToEnd(b, a.Fields, options(a.Fields))
	switch length, told := a.Get("Content-Length"); {
	case code == inChunks:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case code == untilClose, a.Status < http.StatusOK, a.Status == http.StatusNoContent:
	case h.Method == http.MethodHead, a.Status == http.StatusNotModified:
		// What a GET would have got, if the server says so.
		if length, _, _ := strings.Cut(length, ","); told && length != "" {
			b = append(append(append(b, "Content-Length: "...), length...), "\r\n"...)
		}
	default:
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), a.Length, 10), "\r\n"...)
	}
	protocol, upgrades := a.Get("Upgrade")
	switch {
	case a.Status == http.StatusSwitchingProtocols:
		if !upgrades {
			protocol, _ = h.Get("Upgrade")
		}
		b = append(append(append(b, "Connection: Upgrade\r\nUpgrade: "...), protocol...), "\r\n"...)
	case a.ICY:
	case !goesOn:
		b = append(b, "Connection: close\r\n"...)
	case h.Minor == 0:
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	if a.Status == http.StatusUpgradeRequired && upgrades && goesOn {
		b = append(append(append(b, "Connection: Upgrade\r\nUpgrade: "...), protocol...), "\r\n"...)
	}
	return append(b, "\r\n"...)
}
