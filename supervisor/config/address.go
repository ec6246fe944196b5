package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"cleversocks/conn/netaddr"
)

// ListenAddress is where a socket listens: an address and a port, of which 0
// means any free one. An IPv4 address is IPv4 only, "[::]" is both families.
// The zero ListenAddress listens nowhere.
type ListenAddress struct {
	// Host is a name that is still to be resolved; Load leaves it empty.
	Host string
	// AddrPort is the address, once Host is resolved, and the port.
	AddrPort netip.AddrPort
	// Socket is the path of a unix socket instead, or "@name"; "": none.
	Socket string
	// Systemd is the name of sockets that systemd passes instead; "": none.
	Systemd string
}

// IsZero says that there is no address.
func (a ListenAddress) IsZero() bool { return a == ListenAddress{} }

// IsLoopback says that only this machine reaches the address. Of systemd's
// sockets nobody knows before they are there: it is true for them.
func (a ListenAddress) IsLoopback() bool {
	return a.Socket != "" || a.Systemd != "" || a.AddrPort.Addr().Unmap().IsLoopback()
}

// isAnyPort says that the kernel chooses the port.
func (a ListenAddress) isAnyPort() bool {
	return a.Socket == "" && a.Systemd == "" && a.AddrPort.Port() == 0
}

// String is "127.0.0.1:1080", "[::]:1080", "unix:/path", "systemd:name", or ""
// for the zero address.
func (a ListenAddress) String() string {
	switch {
	case a.IsZero():
		return ""
	case a.Socket != "":
		return unixPrefix + a.Socket
	case a.Systemd != "":
		return systemdPrefix + a.Systemd
	case a.Host != "":
		return net.JoinHostPort(a.Host, strconv.Itoa(int(a.AddrPort.Port())))
	default:
		return a.AddrPort.String()
	}
}

// MarshalText is String.
func (a ListenAddress) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads HOST:PORT, where HOST is an IPv4 address, an IPv6
// address in brackets, or a name; or unix: and the absolute path of a socket, or
// @ and a name; or systemd: and the name of a socket unit's descriptors. Empty text is the zero address.
func (a *ListenAddress) UnmarshalText(text []byte) error {
	s := string(text)
	if s == "" {
		*a = ListenAddress{}
		return nil
	}
	if path, ok := strings.CutPrefix(s, unixPrefix); ok {
		socket, err := parseSocket(path)
		*a = ListenAddress{Socket: socket}
		return err
	}
	if name, ok := strings.CutPrefix(s, systemdPrefix); ok {
		*a = ListenAddress{Systemd: name}
		return checkDescriptorName(name)
	}
	host, portText, err := net.SplitHostPort(s)
	if err != nil {
		return splitHint(s)
	}
	port, err := netaddr.ParsePort(portText)
	if err != nil {
		return fmt.Errorf("port %q: must be a number from 0 to 65535", clip(portText))
	}
	if host == "" {
		return errors.New(`the host is missing: write "127.0.0.1:` + portText + `" for this machine alone, "0.0.0.0:` +
			portText + `" for all of IPv4, "[::]:` + portText + `" for both families`)
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case err == nil:
		*a = ListenAddress{AddrPort: netip.AddrPortFrom(ip.Unmap(), port)}
	case !plausibleName(host):
		return errNotAccepted
	default:
		*a = ListenAddress{Host: host, AddrPort: netip.AddrPortFrom(netip.Addr{}, port)}
	}
	return nil
}

func (ListenAddress) accepts() string {
	return `an address and port such as "127.0.0.1:1080" or "[::]:1080", or a socket such as "unix:/run/cleversocks.sock", or "systemd:NAME"`
}

// systemdPrefix begins the address of sockets that systemd passes.
const systemdPrefix = "systemd:"

// checkDescriptorName refuses what FileDescriptorName= of systemd.socket(5)
// cannot be.
func checkDescriptorName(name string) error {
	odd := func(r rune) bool { return r < ' ' || r > '~' || r == ':' }
	if name == "" || len(name) > 255 || strings.ContainsFunc(name, odd) {
		return fmt.Errorf(`%q: must be "systemd:" and the FileDescriptorName= of the socket unit`, clip(name))
	}
	return nil
}

// splitHint explains what net.SplitHostPort refused.
func splitHint(s string) error {
	if ip, err := netip.ParseAddr(s); err == nil {
		return fmt.Errorf("has no port: write %q", netip.AddrPortFrom(ip, 1080))
	}
	return errNotAccepted
}

// plausibleName keeps what can't be a host name ("127.0.0.1.5", "a b") from
// being sent to a resolver.
func plausibleName(host string) bool {
	if len(host) > 253 {
		return false
	}
	for i := range len(host) {
		c := host[i]
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	last := host[strings.LastIndexByte(host, '.')+1:]
	_, err := strconv.ParseUint(last, 0, 64)
	return last != "" && err != nil
}

// IP is an IP address without a port. The zero IP is none.
type IP struct{ netip.Addr }

// IsZero says that there is no address.
func (a IP) IsZero() bool { return !a.IsValid() }

// String is the address, or "" when there is none.
func (a IP) String() string {
	if a.IsZero() {
		return ""
	}
	return a.Addr.String()
}

// MarshalText is String.
func (a IP) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads one address; empty text is none.
func (a *IP) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*a = IP{}
		return nil
	}
	ip, err := netip.ParseAddr(string(text))
	if err != nil {
		return errNotAccepted
	}
	*a = IP{ip.Unmap()}
	return nil
}

func (IP) accepts() string { return `an IP address such as "192.0.2.1" or "2001:db8::1"` }
