package config

import (
	"errors"
	"strconv"
	"strings"
)

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
