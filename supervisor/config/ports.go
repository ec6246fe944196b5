package config

import (
	"errors"

	"cleversocks/conn/netaddr"
)

// PortRange is one port, or several that follow each other: 25, "465-587".
type PortRange struct{ netaddr.PortRange }

// MarshalText is String.
func (r PortRange) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a port or a range.
func (r *PortRange) UnmarshalText(text []byte) error {
	ports, err := netaddr.ParsePortRange(string(text))
	switch {
	case errors.Is(err, netaddr.ErrPortsReverse):
		return errors.New("has a range that ends before it begins")
	case err != nil:
		return errNotAccepted
	}
	r.PortRange = ports
	return nil
}

func (PortRange) accepts() string { return `a port or a range of ports such as 25 or "465-587"` }
func (PortRange) acceptsInteger() {}

// portRanges are the ranges without their spelling; nil stays nil.
func portRanges(list []PortRange) []netaddr.PortRange {
	if list == nil {
		return nil
	}
	out := make([]netaddr.PortRange, len(list))
	for i, r := range list {
		out[i] = r.PortRange
	}
	return out
}

// OwnPorts is a range of ports for sockets of ours, written as "40000-40999",
// one port, or "" for the system's choice.
type OwnPorts struct{ netaddr.PortRange }

// MarshalText is the range as it is written.
func (p OwnPorts) MarshalText() ([]byte, error) {
	if p.PortRange == (netaddr.PortRange{}) {
		return nil, nil
	}
	return []byte(p.String()), nil
}

// UnmarshalText reads a range.
func (p *OwnPorts) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*p = OwnPorts{}
		return nil
	}
	ports, err := netaddr.ParsePortRange(string(text))
	if err != nil || ports.First == 0 {
		return errNotAccepted
	}
	p.PortRange = ports
	return nil
}

func (OwnPorts) accepts() string { return `a range of ports such as "40000-40999", a port, or ""` }
func (OwnPorts) acceptsInteger() {}
