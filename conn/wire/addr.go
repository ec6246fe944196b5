package wire

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/idna"

	"cleversocks/conn/netaddr"
)

// Addr is a destination: a host, by address or by name, and a port. Exactly
// one of IP and Name is set in an Addr that came from a constructor here.
type Addr struct {
	IP   netip.Addr // unmapped, without a zone
	Name string     // lower case, punycode, no trailing dot
	Port uint16
	// Absolute says that Name is complete: it was given with its final dot, or
	// a search list has been gone through. Nothing is ever appended to it.
	Absolute bool
}

// ErrBadName is wrapped by the errors of ParseHost.
var ErrBadName = errors.New("bad host name")

// maxName is the longest name in DNS presentation form (RFC 1035 §2.3.4).
const maxName = 253

// FromAddrPort is the Addr of an address and port, unmapped.
func FromAddrPort(ap netip.AddrPort) Addr {
	return Addr{IP: netaddr.Plain(ap.Addr()), Port: ap.Port()}
}

// ParseHost reads the host that a client sent in name form. An IP literal,
// with or without brackets, becomes an address, so that address rules apply
// to it; anything else is normalised to the form that rules and DNS compare:
// lower case, punycode, no trailing dot; Absolute keeps what that dot said. An
// empty name, control characters,
// blanks, over-long names and names that end in a number (which some
// resolvers read as an address, "127.1") are refused.
func ParseHost(raw string, port uint16) (Addr, error) {
	host := raw
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
		if _, err := netip.ParseAddr(host); err != nil { // names have none
			return Addr{}, fmt.Errorf("%w: %q", ErrBadName, raw)
		}
	}
	if ip, err := parseIP(host); err == nil {
		if ip.Zone() != "" {
			return Addr{}, fmt.Errorf("%w: %q: a zone means nothing here", ErrBadName, raw)
		}
		return Addr{IP: ip.Unmap(), Port: port}, nil
	}
	name, absolute, err := normalize(host)
	if err != nil {
		return Addr{}, err
	}
	return Addr{Name: name, Port: port, Absolute: absolute}, nil
}

// errNoIP is a host that is no IP address by its look.
var errNoIP = errors.New("no IP address")

// parseIP is netip.ParseAddr, which makes an error of its own for each name that
// it is given. An address ends in a digit, or has a colon.
func parseIP(host string) (netip.Addr, error) {
	last := len(host) - 1
	if last < 0 || (host[last] < '0' || host[last] > '9') && strings.IndexByte(host, ':') < 0 {
		return netip.Addr{}, errNoIP
	}
	return netip.ParseAddr(host)
}

// NormalizeName is the one form of a DNS name that rules, caches and logs
// compare. It accepts what hosts files and internal zones hold (underscores,
// a single label) and refuses what no resolver should be asked.
func NormalizeName(raw string) (string, error) {
	name, _, err := normalize(raw)
	return name, err
}

// normalize is NormalizeName, and whether the name had its final dot, which may
// be any that IDNA takes for one (U+3002).
func normalize(raw string) (name string, absolute bool, err error) {
	name, absolute = strings.CutSuffix(raw, ".")
	if name == "" || len(name) > maxName {
		return "", false, fmt.Errorf("%w: %q: length", ErrBadName, clip(raw))
	}
	ascii := true
	for i := range len(name) {
		switch c := name[i]; {
		case c <= ' ' || c == 0x7f || strings.IndexByte(`/\%:@[]?#"<>^|`, c) >= 0:
			return "", false, fmt.Errorf("%w: %q: character %q", ErrBadName, clip(raw), c)
		case c >= 0x80:
			ascii = false
		}
	}
	if !ascii {
		puny, err := idna.Lookup.ToASCII(name)
		if err != nil {
			return "", false, fmt.Errorf("%w: %q: %w", ErrBadName, clip(raw), err)
		}
		short, dotted := strings.CutSuffix(puny, ".")
		name, absolute = short, absolute || dotted
	}
	name = strings.ToLower(name)
	last := name
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return "", false, fmt.Errorf("%w: %q: label length", ErrBadName, clip(raw))
		}
		last = label
	}
	if isNumber(last) {
		return "", false, fmt.Errorf("%w: %q: ends in a number, yet is no IP address", ErrBadName, clip(raw))
	}
	return name, absolute, nil
}

// isNumber reports whether a last label makes a name one that inet_aton(3) or a
// browser may take for an IPv4 address: digits alone, whatever their number and
// whether or not they are octal ("10.0.0.08"), or 0x and hexadecimal digits (the
// URL standard's "ends in a number").
func isNumber(label string) bool {
	const digits = "0123456789"
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(hex, digits+"abcdef") == ""
	}
	return strings.Trim(label, digits) == ""
}

// clip bounds what an error repeats of a peer's bytes.
func clip(s string) string {
	const most = 64
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// IsName reports whether the host is still to be resolved.
func (a Addr) IsName() bool { return a.Name != "" }

// IsZero reports whether no host is set.
func (a Addr) IsZero() bool { return a.Name == "" && !a.IP.IsValid() }

// Host is the name, or the address without brackets.
func (a Addr) Host() string {
	if a.Name != "" {
		return a.Name
	}
	if !a.IP.IsValid() {
		return ""
	}
	return a.IP.String()
}

// String is "host:port", with brackets around an IPv6 address.
func (a Addr) String() string {
	return net.JoinHostPort(a.Host(), strconv.Itoa(int(a.Port)))
}

// Authority is String with the final dot of an absolute name: ParseHost makes
// the same Addr of it.
func (a Addr) Authority() string {
	if a.Name != "" && a.Absolute {
		return net.JoinHostPort(a.Name+".", strconv.Itoa(int(a.Port)))
	}
	return a.String()
}

// AddrPort is the address and port; invalid when the host is a name.
func (a Addr) AddrPort() netip.AddrPort { return netip.AddrPortFrom(a.IP, a.Port) }
