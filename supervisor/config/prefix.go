package config

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"cleversocks/aclsvc"
)

// Prefix is a range of IP addresses, or one address. Host bits are dropped.
type Prefix struct{ netip.Prefix }

// String is "192.0.2.0/24", or "192.0.2.1" for a single address.
func (p Prefix) String() string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.Prefix.String()
}

// MarshalText is String.
func (p Prefix) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads a CIDR or an address.
func (p *Prefix) UnmarshalText(text []byte) error {
	v, err := aclsvc.ParsePrefix(string(text))
	if err != nil {
		return errNotAccepted
	}
	*p = Prefix{v}
	return nil
}

func (Prefix) accepts() string { return `an IP address or CIDR such as "192.0.2.0/24"` }

// Prefixes is a list without our wrapper.
func Prefixes(list []Prefix) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, p := range list {
		out[i] = p.Prefix
	}
	return out
}

// PortRange is one port, or several that follow each other: 25, "465-587".
type PortRange struct{ Low, High uint16 }

// String is "25" or "465-587".
func (r PortRange) String() string {
	if r.Low == r.High {
		return strconv.Itoa(int(r.Low))
	}
	return strconv.Itoa(int(r.Low)) + "-" + strconv.Itoa(int(r.High))
}

// MarshalText is String.
func (r PortRange) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a port or a range.
func (r *PortRange) UnmarshalText(text []byte) error {
	low, high, isRange := strings.Cut(string(text), "-")
	if !isRange {
		high = low
	}
	l, err1 := strconv.ParseUint(low, 10, 16)
	h, err2 := strconv.ParseUint(high, 10, 16)
	switch {
	case err1 != nil || err2 != nil:
		return errNotAccepted
	case l > h:
		return errors.New("has a range that ends before it begins")
	}
	*r = PortRange{Low: uint16(l), High: uint16(h)}
	return nil
}

func (PortRange) accepts() string { return `a port or a range of ports such as 25 or "465-587"` }
func (PortRange) acceptsInteger() {}
