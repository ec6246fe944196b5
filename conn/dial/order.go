package dial

import (
	"cmp"
	"net/netip"
	"slices"

	"cleversocks/resolver"
)

// sourceFunc is the address that a connection to dst would come from; invalid
// when dst cannot be reached.
type sourceFunc func(dst netip.Addr, egress Egress) netip.Addr

// policy is the default table of RFC 6724 §2.1, longest prefix first.
var policy = []struct {
	prefix     netip.Prefix
	precedence int
	label      int
}{
	{netip.MustParsePrefix("::1/128"), 50, 0},
	{netip.MustParsePrefix("::ffff:0:0/96"), 35, 4},
	{netip.MustParsePrefix("::/96"), 1, 3},
	{netip.MustParsePrefix("2001::/32"), 5, 5},
	{netip.MustParsePrefix("2002::/16"), 30, 2},
	{netip.MustParsePrefix("3ffe::/16"), 1, 12},
	{netip.MustParsePrefix("fec0::/10"), 1, 11},
	{netip.MustParsePrefix("fc00::/7"), 3, 13},
	{netip.MustParsePrefix("::/0"), 40, 1},
}

// classify is the precedence and label of an address.
func classify(a netip.Addr) (precedence, label int) {
	if a.Is4() {
		return 35, 4 // ::ffff:0:0/96
	}
	for _, p := range policy {
		if p.prefix.Contains(a) {
			return p.precedence, p.label
		}
	}
	return 40, 1
}

// Scopes of RFC 6724 §3.1 and RFC 4007.
const (
	scopeLinkLocal = 0x2
	scopeSiteLocal = 0x5
	scopeGlobal    = 0xe
)

func scopeOf(a netip.Addr) int {
	switch {
	case a.IsLoopback(), a.IsLinkLocalUnicast(): // RFC 6724 §3.2 and §3.4
		return scopeLinkLocal
	case a.Is6() && a.As16()[0] == 0xfe && a.As16()[1]&0xc0 == 0xc0: // fec0::/10
		return scopeSiteLocal
	}
	return scopeGlobal
}

// candidate is a destination with what the rules of RFC 6724 §6 compare.
type candidate struct {
	addr, source netip.Addr
	scope        int
	precedence   int
	matchScope   bool
	matchLabel   bool
	common       int
}

func newCandidate(addr, source netip.Addr) candidate {
	c := candidate{addr: addr, source: source, scope: scopeOf(addr)}
	var label int
	c.precedence, label = classify(addr)
	if source.IsValid() {
		_, sourceLabel := classify(source)
		c.matchScope = c.scope == scopeOf(source)
		c.matchLabel = label == sourceLabel
		c.common = commonPrefix(addr, source)
	}
	return c
}

// commonPrefix is the number of leading bits that two IPv6 addresses share,
// at most the 64 of the network part. It is 0 for IPv4: rule 9 there would
// pin clients to the one server that is numerically near, whatever the DNS
// balanced (RFC 6724 §6 lets an implementation leave it out).
func commonPrefix(a, b netip.Addr) int {
	if !a.Is6() || !b.Is6() {
		return 0
	}
	x, y := a.As16(), b.As16()
	n := 0
	for i := range 8 {
		diff := x[i] ^ y[i]
		if diff == 0 {
			n += 8
			continue
		}
		for diff&0x80 == 0 {
			diff <<= 1
			n++
		}
		break
	}
	return n
}

// compare orders two candidates by the rules of RFC 6724 §6 that can be known
// here: 3, 4 and 7 (deprecated, home and encapsulated addresses) cannot.
func compare(a, b candidate) int {
	if a.source.IsValid() != b.source.IsValid() { // rule 1: avoid the unreachable
		return preferTrue(a.source.IsValid())
	}
	if a.matchScope != b.matchScope { // rule 2
		return preferTrue(a.matchScope)
	}
	if a.matchLabel != b.matchLabel { // rule 5
		return preferTrue(a.matchLabel)
	}
	if c := cmp.Compare(b.precedence, a.precedence); c != 0 { // rule 6
		return c
	}
	if c := cmp.Compare(a.scope, b.scope); c != 0 { // rule 8: the smaller scope
		return c
	}
	if a.addr.Is6() && b.addr.Is6() { // rule 9
		return cmp.Compare(b.common, a.common)
	}
	return 0 // rule 10: as they came
}

func preferTrue(first bool) int {
	if first {
		return -1
	}
	return 1
}

// sortAddrs sorts destinations by RFC 6724.
func sortAddrs(addrs []netip.Addr, source func(netip.Addr) netip.Addr) []netip.Addr {
	sorted := slices.Clone(addrs)
	// The sources cost a system call or three each; among global IPv4
	// addresses they decide nothing.
	if len(addrs) < 2 || !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Is6() || scopeOf(a) != scopeGlobal }) {
		return sorted
	}
	candidates := make([]candidate, len(addrs))
	for i, a := range addrs {
		candidates[i] = newCandidate(a, source(a))
	}
	slices.SortStableFunc(candidates, compare)
	for i, c := range candidates {
		sorted[i] = c.addr
	}
	return sorted
}

// order sorts destinations by RFC 6724 and interleaves the families (RFC 8305
// §4, with a First Address Family Count of 1). The address that won before,
// if it is among them, comes first; after is the family tried last, if any,
// so that the other one follows it.
func order(addrs []netip.Addr, source func(netip.Addr) netip.Addr, won netip.Addr, after resolver.Family) []netip.Addr {
	if len(addrs) < 2 {
		return addrs
	}
	sorted := front(sortAddrs(addrs, source), won)
	if sorted[0] == won {
		return append(sorted[:1], interleave(sorted[1:], resolver.FamilyOf(won))...)
	}
	return interleave(sorted, after)
}

// front moves an address to the front, if it is there.
func front(addrs []netip.Addr, first netip.Addr) []netip.Addr {
	if i := slices.Index(addrs, first); i > 0 {
		addrs = slices.Insert(slices.Delete(addrs, i, i+1), 0, first)
	}
	return addrs
}

// interleave alternates the families, beginning with the other one than
// after, or with the first address's when after is 0.
func interleave(addrs []netip.Addr, after resolver.Family) []netip.Addr {
	if len(addrs) == 0 {
		return nil
	}
	var one, two []netip.Addr // of the first address's family, and of the other
	for _, a := range addrs {
		if resolver.FamilyOf(a) == resolver.FamilyOf(addrs[0]) {
			one = append(one, a)
		} else {
			two = append(two, a)
		}
	}
	if after == resolver.FamilyOf(addrs[0]) && len(two) > 0 {
		one, two = two, one
	}
	out := make([]netip.Addr, 0, len(addrs))
	for len(one) > 0 || len(two) > 0 {
		if len(one) > 0 {
			out, one = append(out, one[0]), one[1:]
		}
		if len(two) > 0 {
			out, two = append(out, two[0]), two[1:]
		}
	}
	return out
}
