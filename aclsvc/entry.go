package aclsvc

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"cleversocks/conn/netaddr"
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
		p, err := netaddr.ParsePrefix(s)
		return entry{prefixes: []netip.Prefix{p}}, err
	}
	if a, err := netaddr.ParseAddr(s); err == nil {
		return entry{prefixes: []netip.Prefix{netaddr.Single(a)}}, nil
	} else if strings.ContainsAny(s, "%[]") {
		return entry{}, err
	}
	if left, right, ok := strings.Cut(s, "-"); ok {
		first, err1 := netaddr.ParseAddr(strings.TrimSpace(left))
		last, err2 := netaddr.ParseAddr(strings.TrimSpace(right))
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
