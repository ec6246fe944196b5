package aclsvc

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"cleversocks/conn/wire"
)

// entry is one destination of a rule: prefixes, or a name.
type entry struct {
	prefixes []netip.Prefix // of an address, a CIDR or a range
	name     string         // normalised; for a suffix without its "*."
	suffix   bool           // the names below name, not name itself
}

// parseEntry reads "10.0.0.0/8", "10.0.0.1", "10.0.0.1-10.0.0.9",
// "host.example" or "*.example".
func parseEntry(s string) (entry, error) {
	switch {
	case s == "":
		return entry{}, errors.New("empty entry")
	case strings.Contains(s, "/"):
		p, err := ParsePrefix(s)
		return entry{prefixes: []netip.Prefix{p}}, err
	}
	if a, err := parseAddr(s); err == nil {
		return entry{prefixes: []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}}, nil
	} else if strings.ContainsAny(s, "%[]") {
		return entry{}, err
	}
	if left, right, ok := strings.Cut(s, "-"); ok {
		first, err1 := parseAddr(strings.TrimSpace(left))
		last, err2 := parseAddr(strings.TrimSpace(right))
		switch {
		case err1 == nil && err2 == nil:
			prefixes, err := rangePrefixes(first, last)
			return entry{prefixes: prefixes}, err
		case err1 == nil:
			return entry{}, fmt.Errorf("%q: the range's end is not an address", clip(s))
		}
	}
	e := entry{name: s}
	if rest, ok := strings.CutPrefix(s, "*."); ok {
		e.name, e.suffix = rest, true
	}
	if strings.Contains(e.name, "*") {
		return entry{}, fmt.Errorf("%q: a * stands only at the front, as in *.example.com; to match everything, leave the key out", clip(s))
	}
	name, err := wire.NormalizeName(e.name)
	if err != nil {
		return entry{}, fmt.Errorf("neither an address, a CIDR, a range nor a name: %w", err)
	}
	e.name = name
	return e, nil
}

// ParsePrefix reads a CIDR or a single address. Host bits are dropped, and a
// prefix of v4-mapped addresses becomes the IPv4 one, since addresses are
// unmapped before they are compared.
func ParsePrefix(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		a, err := parseAddr(s)
		if err != nil {
			return netip.Prefix{}, err
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a CIDR", clip(s))
	}
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return a, fmt.Errorf("%q is not an address", clip(s))
	}
	if a.Zone() != "" {
		return a, fmt.Errorf("%q: a zone means nothing here", clip(s))
	}
	return a.Unmap(), nil
}

// rangePrefixes splits first..last into the fewest prefixes, at most 254.
func rangePrefixes(first, last netip.Addr) ([]netip.Prefix, error) {
	if first.BitLen() != last.BitLen() || last.Less(first) {
		return nil, fmt.Errorf("%s-%s is not a range: the first address must come before the last, in one family", first, last)
	}
	var out []netip.Prefix
	for {
		// The widest prefix that starts at first and does not pass last.
		p := netip.PrefixFrom(first, first.BitLen())
		for p.Bits() > 0 {
			wider := netip.PrefixFrom(first, p.Bits()-1).Masked()
			if wider.Addr() != first || last.Less(lastOf(wider)) {
				break
			}
			p = wider
		}
		out = append(out, p)
		end := lastOf(p)
		if end == last {
			return out, nil
		}
		first = end.Next()
	}
}

// lastOf is the highest address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// portRange is inclusive at both ends.
type portRange struct{ low, high uint16 }

// parsePorts reads "25" or "465-587".
func parsePorts(s string) (portRange, error) {
	left, right, isRange := strings.Cut(s, "-")
	if !isRange {
		right = left
	}
	low, err1 := strconv.ParseUint(strings.TrimSpace(left), 10, 16)
	high, err2 := strconv.ParseUint(strings.TrimSpace(right), 10, 16)
	if err1 != nil || err2 != nil || low > high {
		return portRange{}, fmt.Errorf("%q is neither a port (0 to 65535) nor a range like 465-587", clip(s))
	}
	return portRange{uint16(low), uint16(high)}, nil
}

// parseCommand reads the settings' name of a command.
func parseCommand(s string) (wire.Command, error) {
	for _, c := range []wire.Command{wire.CommandConnect, wire.CommandBind, wire.CommandUDPAssociate} {
		if s == c.String() {
			return c, nil
		}
	}
	return 0, fmt.Errorf("%q is not a command: connect, bind or udp", clip(s))
}

// clip bounds what an error repeats of a setting.
func clip(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
