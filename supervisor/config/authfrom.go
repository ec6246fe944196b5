package config

import (
	"net/netip"
	"slices"
	"strings"

	"cleversocks/authsvc"
	"cleversocks/conn/netaddr"
)

// RangeLogins is one element of a listener's auth_from: how clients from a
// range may log in, the preferred way first.
type RangeLogins struct {
	From Prefix
	Ways []Login
}

// UnmarshalText reads "CIDR = WAY, WAY".
func (r *RangeLogins) UnmarshalText(text []byte) error {
	from, list, ok := strings.Cut(string(text), "=")
	if !ok {
		return errNotAccepted
	}
	var parsed RangeLogins
	if err := parsed.From.UnmarshalText([]byte(strings.TrimSpace(from))); err != nil {
		return errNotAccepted
	}
	for way := range strings.SplitSeq(list, ",") {
		var l Login
		if err := l.UnmarshalText([]byte(strings.TrimSpace(way))); err != nil || slices.Contains(parsed.Ways, l) {
			return errNotAccepted
		}
		parsed.Ways = append(parsed.Ways, l)
	}
	*r = parsed
	return nil
}

// MarshalText is what UnmarshalText reads.
func (r RangeLogins) MarshalText() ([]byte, error) {
	ways := make([]string, len(r.Ways))
	for i, way := range r.Ways {
		ways[i] = string(way)
	}
	return []byte(r.From.String() + " = " + strings.Join(ways, ", ")), nil
}

func (RangeLogins) accepts() string { return `like "10.0.0.0/8 = gssapi, password"` }

// kindsOf are the credentials of ways.
func kindsOf(ways []Login) []authsvc.Kind {
	var kinds []authsvc.Kind
	for _, way := range ways {
		kinds = append(kinds, logins[way])
	}
	return kinds
}

// KindsFrom is auth_from by a client's address: the ways of the longest range
// that it is in, or nil. It is nil itself where there are none.
func (l *Listener) KindsFrom() func(netip.Addr) []authsvc.Kind {
	type rule struct {
		from  netip.Prefix
		kinds []authsvc.Kind
	}
	var rules []rule
	for _, r := range l.AuthFrom {
		rules = append(rules, rule{r.From.Masked(), kindsOf(r.Ways)})
	}
	if len(rules) == 0 {
		return nil
	}
	slices.SortStableFunc(rules, func(a, b rule) int { return b.from.Bits() - a.from.Bits() })
	return func(client netip.Addr) []authsvc.Kind {
		client = netaddr.Plain(client)
		for _, r := range rules {
			if r.from.Contains(client) {
				return r.kinds
			}
		}
		return nil
	}
}
