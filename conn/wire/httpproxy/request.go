package httpproxy

import (
	"encoding/base64"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

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
		req.Dest, err = h.absolute()
	}
	return req, err
}

// absolute is the destination of a target in absolute-form, RFC 9112 §3.2.2.
func (h *Head) absolute() (wire.Addr, error) {
	scheme, _, ok := strings.Cut(h.Target, "://")
	switch {
	case !ok:
		return wire.Addr{}, badRequest("This is a proxy: the target must be an absolute http:// URL.")
	case !strings.EqualFold(scheme, "http"):
		return wire.Addr{}, badRequest("Only http:// URLs are forwarded; use CONNECT for others.")
	}
	u, err := url.Parse(h.Target)
	if err != nil || u.Host == "" || u.Opaque != "" {
		return wire.Addr{}, badRequest("The request target is no valid URL.")
	}
	if u.User != nil {
		// RFC 9110 §4.2.4: userinfo in a received http URI is an error.
		return wire.Addr{}, badRequest("The request target carries a user name.")
	}
	return parseAuthority(u.Host, 80)
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
		return wire.Addr{}, badRequest("An IPv6 address needs brackets.")
	}
	number := defaultPort
	if hasPort && (port != "" || defaultPort == 0) {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || strings.Trim(port, "0123456789") != "" {
			return wire.Addr{}, badRequest("The target's port is no number up to 65535.")
		}
		number = uint16(n)
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
}

// String keeps the secret out of logs.
func (Credentials) String() string { return "(credentials)" }

// GoString keeps the secret out of %#v.
func (Credentials) GoString() string { return "(credentials)" }

// Credentials reads Proxy-Authorization. ok is false when there is none, or
// one of another scheme than Basic: both are answered 407, and neither is a
// failed attempt. A malformed one is a *StatusError. RFC 7617.
func (h *Head) Credentials() (c Credentials, ok bool, err error) {
	value, ok := h.Get("Proxy-Authorization")
	if !ok {
		return Credentials{}, false, nil
	}
	return ParseBasic(value)
}

// ParseBasic reads the value of an authorization field, as
// [Head.Credentials] does.
func ParseBasic(value string) (c Credentials, ok bool, err error) {
	scheme, param, _ := strings.Cut(value, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return Credentials{}, false, nil
	}
	param = strings.TrimRight(strings.TrimLeft(param, " "), "=")
	raw, err := base64.RawStdEncoding.DecodeString(param)
	if err != nil {
		return Credentials{}, false, badRequest("The credentials are no base64.")
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
