package httpproxy

import (
	"encoding/base64"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"cleversocks/conn/netaddr"
	"cleversocks/conn/wire"
)

// MaxCredential bounds user and password each, as RFC 1929 does: the users
// are the same.
const MaxCredential = 255

// Request is the head's destination: of CONNECT in authority-form, and of
// every other method in absolute-form with the scheme http. The error is a
// *StatusError.
func (h *Head) Request() (wire.Request, error) {
	req := wire.Request{Protocol: wire.HTTP, Command: wire.CommandConnect}
	var err error
	if h.IsConnect() {
		req.Dest, err = parseAuthority(h.Target, 0)
	} else {
		var a Absolute
		a, err = h.Absolute()
		req.Dest = a.Dest
	}
	return req, err
}

// Absolute is a target in absolute-form (RFC 9112 §3.2.2), taken apart and
// otherwise as it came: what a path means is between client and server.
type Absolute struct {
	Dest wire.Addr
	// Host is the value of the field Host that the server gets.
	Host string
	// Origin is the target in origin-form: path and query; "*" is the server as a
	// whole, of an OPTIONS without a path.
	Origin string
	// Login is the "user:password" before the host, percent-decoded; nil
	// without one. It is for the server.
	Login *Credentials
}

// Absolute takes the target of a plain request apart. The error is a
// *StatusError.
func (h *Head) Absolute() (Absolute, error) {
	scheme, rest, ok := strings.Cut(h.Target, "://")
	switch {
	case !ok:
		return Absolute{}, badRequest("This is a proxy: the target must be an absolute http:// URL.")
	case !strings.EqualFold(scheme, "http"):
		return Absolute{}, badRequest("Only http:// URLs are forwarded; use CONNECT for others.")
	}
	var a Absolute
	authority := rest
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		authority, a.Origin = rest[:end], rest[end:]
	}
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		login := authority[:at]
		authority = authority[at+1:]
		if strings.ContainsAny(login, "@\\") {
			// Parsers disagree on which host such a target means.
			return Absolute{}, badRequest("The user in the target is not percent-encoded.")
		}
		user, password, _ := strings.Cut(login, ":")
		a.Login = &Credentials{User: unescape(user), Password: unescape(password)}
	}
	var err error
	if a.Dest, err = parseAuthority(authority, 80); err != nil {
		return Absolute{}, err
	}
	a.Host = authority
	if strings.ContainsFunc(authority, func(c rune) bool { return c >= 0x80 }) {
		a.Host = a.Dest.String() // punycode
	}
	switch {
	case a.Origin == "" && h.Method == http.MethodOptions:
		a.Origin = "*" // RFC 9112 §3.2.4
	case !strings.HasPrefix(a.Origin, "/"):
		a.Origin = "/" + a.Origin
	}
	return a, nil
}

// unescape decodes percent signs, and leaves alone what is not well-formed.
func unescape(s string) string {
	if out, err := url.PathUnescape(s); err == nil {
		return out
	}
	return s
}

// AppendBasic appends the value of an authorization field.
func (c *Credentials) AppendBasic(b []byte) []byte {
	b = append(b, "Basic "...)
	return base64.StdEncoding.AppendEncode(b, []byte(c.User+":"+c.Password))
}

// parseAuthority reads "host:port", IPv6 in brackets (RFC 9110 §7.1). Without
// a default port the port is required.
func parseAuthority(s string, defaultPort uint16) (wire.Addr, error) {
	var host, port string
	var hasPort bool
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return wire.Addr{}, badRequest("The target's bracket is not closed.")
		}
		host = s[:end+1]
		if rest := s[end+1:]; rest != "" {
			if rest[0] != ':' {
				return wire.Addr{}, badRequest("The target is not host:port.")
			}
			port, hasPort = rest[1:], true
		}
	} else if host, port, hasPort = strings.Cut(s, ":"); strings.Contains(port, ":") {
		// A URL, or a user's name and password, has a colon more, too.
		if strings.ContainsAny(s, "/@") {
			return wire.Addr{}, badRequest("The target is not host:port.")
		}
		return wire.Addr{}, badRequest("An IPv6 address needs brackets.")
	}
	number := defaultPort
	if hasPort && (port != "" || defaultPort == 0) {
		var err error
		if number, err = netaddr.ParsePort(port); err != nil {
			return wire.Addr{}, badRequest("The target's port is no number up to 65535.")
		}
	}
	if number == 0 {
		return wire.Addr{}, badRequest("The target has no port.")
	}
	addr, err := wire.ParseHost(host, number)
	if err != nil || strings.HasPrefix(host, "[") && !isIPv6(host) {
		return wire.Addr{}, badRequest("The target's host is malformed.")
	}
	return addr, nil
}

func isIPv6(bracketed string) bool {
	ip, err := netip.ParseAddr(strings.Trim(bracketed, "[]"))
	return err == nil && ip.Is6()
}

// Credentials are what a client proves itself with. They print as nothing.
type Credentials struct {
	User, Password string // raw bytes
	// Token is of Negotiate; nil: they are Basic's.
	Token []byte
}

// String keeps the secret out of logs.
func (Credentials) String() string { return "(credentials)" }

// GoString keeps the secret out of %#v.
func (Credentials) GoString() string { return "(credentials)" }

// Credentials reads Proxy-Authorization. ok is false when there is none, or
// one of another scheme than Basic (RFC 7617) and Negotiate (RFC 4559): both
// are answered 407, and neither is a failed attempt. A malformed one is a
// *StatusError.
func (h *Head) Credentials() (c Credentials, ok bool, err error) {
	value, ok := h.Get("Proxy-Authorization")
	if !ok {
		return Credentials{}, false, nil
	}
	return ParseAuthorization(value)
}

// ParseAuthorization reads the value of an authorization field, as
// [Head.Credentials] does.
func ParseAuthorization(value string) (c Credentials, ok bool, err error) {
	scheme, param, _ := strings.Cut(value, " ")
	negotiate := strings.EqualFold(scheme, Negotiate)
	if !negotiate && !strings.EqualFold(scheme, "Basic") {
		return Credentials{}, false, nil
	}
	param = strings.TrimRight(strings.TrimLeft(param, " "), "=")
	raw, err := base64.RawStdEncoding.DecodeString(param)
	if err != nil {
		return Credentials{}, false, badRequest("The credentials are no base64.")
	}
	if negotiate {
		return Credentials{Token: raw}, len(raw) > 0, nil
	}
	user, password, found := strings.Cut(string(raw), ":")
	if !found {
		return Credentials{}, false, badRequest("The credentials are not user:password.")
	}
	if len(user) > MaxCredential || len(password) > MaxCredential {
		return Credentials{}, false, badRequest("The credentials are too long.")
	}
	return Credentials{User: user, Password: password}, true, nil
}
