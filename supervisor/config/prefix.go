package config

import (
	"net/netip"

	"cleversocks/conn/netaddr"
)

// Prefix is a range of addresses: "192.0.2.0/24", or a single address, which
// prints without its length. Bits behind the length are cleared.
type Prefix struct{ netip.Prefix }

// String is the range, or the address when it is a single one.
func (p Prefix) String() string {
	switch {
	case !p.IsValid():
		return ""
	case p.IsSingleIP():
		return p.Addr().String()
	}
	return p.Prefix.String()
}

// MarshalText is String.
func (p Prefix) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads an address or a CIDR. IPv4-mapped IPv6 becomes IPv4.
func (p *Prefix) UnmarshalText(text []byte) error {
	prefix, err := netaddr.ParsePrefix(string(text))
	if err != nil {
		return errNotAccepted
	}
	p.Prefix = prefix
	return nil
}

func (Prefix) accepts() string { return `an IP address or CIDR such as "192.0.2.1" or "2001:db8::/64"` }

// Prefixes are the ranges as the standard library has them.
func Prefixes(list []Prefix) []netip.Prefix {
	if list == nil {
		return nil
	}
	out := make([]netip.Prefix, len(list))
	for i, p := range list {
		out[i] = p.Prefix
	}
	return out
}

// Exempt is whom limits and bans do not count: a range of addresses, or a user of
// this machine at a unix socket.
type Exempt struct{ Prefix }

// String is that of Prefix, or "unix:uid=1000".
func (e Exempt) String() string {
	if netaddr.IsLocalUser(e.Addr()) {
		return netaddr.SourceText(e.Prefix.Prefix)
	}
	return e.Prefix.String()
}

// MarshalText is String.
func (e Exempt) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// UnmarshalText reads what String writes.
func (e *Exempt) UnmarshalText(text []byte) error {
	if key, err := netaddr.ParseSource(string(text)); err == nil && netaddr.IsLocalUser(key) {
		e.Prefix.Prefix = netaddr.SourcePrefix(key)
		return nil
	}
	return e.Prefix.UnmarshalText(text)
}

func (Exempt) accepts() string {
	return `an IP address or CIDR such as "192.0.2.1", or "unix:uid=33"`
}

// Exemptions are the sources as bans know them.
func Exemptions(list []Exempt) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, e := range list {
		out[i] = e.Prefix.Prefix
	}
	return out
}
