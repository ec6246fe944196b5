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
