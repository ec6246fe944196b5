package upstream

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"

	"cleversocks/conn/netaddr"
	"cleversocks/conn/wire"
)

type protocol uint8

const (
	protoSOCKS5 protocol = iota
	protoSOCKS4          // addresses only
	protoSOCKS4a
	protoHTTP
)

// Hop is one proxy on the way. It prints without its credentials.
type Hop struct {
	scheme   string
	proto    protocol
	overTLS  bool
	addr     wire.Addr
	user     string
	password string
	hasAuth  bool
}

type scheme struct {
	proto   protocol
	overTLS bool
	port    uint16
}

// schemeOf is the meaning of a URL's scheme. The h of socks5h says that the
// proxy resolves names, which is what every scheme but socks4 does here.
func schemeOf(name string) (scheme, bool) {
	base, overTLS := strings.CutSuffix(name, "+tls")
	s := scheme{overTLS: overTLS, port: 1080}
	switch base {
	case "socks5", "socks5h":
	case "socks4":
		s.proto = protoSOCKS4
	case "socks4a":
		s.proto = protoSOCKS4a
	case "http":
		s.proto, s.port = protoHTTP, 80
	case "https":
		s.proto, s.port, s.overTLS = protoHTTP, 443, true
		return s, !overTLS
	default:
		return s, false
	}
	return s, true
}

// ParseHop reads a hop's URL: scheme://[user[:password]@]host[:port], where
// the scheme is socks5, socks5h, socks4, socks4a or http, each also with
// "+tls" behind it, or https. Ports default to 1080, 80 and 443. No error
// repeats the URL, which may hold a secret.
func ParseHop(raw string) (Hop, error) {
	// url.Parse's own errors quote what it was given.
	u, err := url.Parse(raw)
	if err != nil {
		return Hop{}, errors.New("not a URL of the form scheme://[user:password@]host:port")
	}
	s, ok := schemeOf(u.Scheme)
	if !ok {
		return Hop{}, fmt.Errorf("unknown scheme %q: want socks5, socks5h, socks4, socks4a, http (each also with +tls) or https", u.Scheme)
	}
	if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" || u.Host == "" {
		return Hop{}, errors.New("want scheme://[user:password@]host:port and nothing behind it")
	}
	h := Hop{scheme: u.Scheme, proto: s.proto, overTLS: s.overTLS}
	port := s.port
	if p := u.Port(); p != "" {
		if port, err = netaddr.ParsePort(p); err != nil || port == 0 {
			return Hop{}, fmt.Errorf("port %q is not one of 1 to 65535", p)
		}
	}
	if h.addr, err = wire.ParseHost(u.Hostname(), port); err != nil {
		return Hop{}, err
	}
	if u.User != nil {
		h.user = u.User.Username()
		h.password, _ = u.User.Password()
		h.hasAuth = true
	}
	return h, h.checkCredentials()
}

// checkCredentials refuses what a protocol's own form cannot carry.
func (h Hop) checkCredentials() error {
	switch {
	case !h.hasAuth:
	case len(h.user) > 255 || len(h.password) > 255:
		return errors.New("user and password are of 255 bytes at most")
	case h.proto == protoSOCKS5 && h.user == "":
		return errors.New("the user is empty") // RFC 1929 §2: 1 to 255
	case h.proto == protoHTTP && strings.Contains(h.user, ":"):
		return errors.New("a user of Basic authentication has no colon") // RFC 7617 §2
	case (h.proto == protoSOCKS4 || h.proto == protoSOCKS4a) && h.password != "":
		return errors.New("SOCKS4 has a user id but no password")
	case strings.IndexByte(h.user, 0) >= 0:
		return errors.New("the user has a NUL in it")
	}
	return nil
}

// String is the hop's URL without credentials: fit for logs and labels.
func (h Hop) String() string { return h.scheme + "://" + h.addr.String() }

// GoString is String, so that %#v shows no secret.
func (h Hop) GoString() string { return h.String() }

// LogValue is String, for slog.
func (h Hop) LogValue() slog.Value { return slog.StringValue(h.String()) }

// chain is the hops to pass, first one first; at least one.
type chain []Hop

func (c chain) String() string {
	var b strings.Builder
	for i, h := range c {
		if i > 0 {
			b.WriteString(" > ")
		}
		b.WriteString(h.String())
	}
	return b.String()
}

// same reports whether two chains are one, credentials included.
func (c chain) same(o chain) bool {
	if len(c) != len(o) {
		return false
	}
	for i := range c {
		if c[i] != o[i] {
			return false
		}
	}
	return true
}

const maxHops = 8

// parseChain reads the hops of a chain, each with the place that it is from.
func parseChain(urls []source) (chain, *ConfigError) {
	var c chain
	for i, u := range urls {
		h, err := ParseHop(u.url)
		if err != nil {
			return nil, &ConfigError{u.path, err}
		}
		if i > 0 && c[i-1].proto == protoSOCKS4 && (h.addr.IsName() || !h.addr.IP.Is4()) {
			return nil, &ConfigError{u.path, errors.New("socks4 before it reaches IPv4 addresses only: use socks4a")}
		}
		c = append(c, h)
	}
	return c, nil
}
