package dial

import (
	"fmt"
	"net/netip"
	"testing"

	"cleversocks/resolver"
)

// Two versions of the program must send a session the same way, and so must two
// replicas: the weights are fixed for ever.
func TestWeightIsFixed(t *testing.T) {
	for session, want := range map[string]uint64{"alice\x00x": 0xb92c0c906ed640ce, "": 0x341f37670fc2becd} {
		if got := Weight(session, "socks5://10.0.0.1:1080"); got != want {
			t.Errorf("%q: %#x, want %#x", session, got, want)
		}
	}
}

// Sessions spread over the candidates, and when one of these goes, only its own
// sessions move.
func TestSessionsMoveWithTheirCandidateAlone(t *testing.T) {
	var list []netip.Prefix
	for i := range 8 {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i + 1)}), 32))
	}
	gone := list[3]
	rest := append(append([]netip.Prefix(nil), list[:3]...), list[4:]...)
	taken := make(map[netip.Prefix]int)
	for i := range 8000 {
		session := fmt.Sprint("alice\x00", i)
		before, after := heaviest(session, list), heaviest(session, rest)
		taken[before]++
		if before != gone && before != after {
			t.Fatalf("session %d moved from %s to %s, and %s is gone", i, before, after, gone)
		}
	}
	for p, n := range taken {
		if n < 850 || n > 1150 {
			t.Errorf("%s has %d of 8000 sessions", p, n)
		}
	}
}

// A session keeps its source address, of a prefix too, and others have others.
func TestSessionKeepsItsSource(t *testing.T) {
	e := Egress{Addresses: []netip.Prefix{netip.MustParsePrefix("2001:db8::/64"), netip.MustParsePrefix("198.51.100.0/28")}}
	seen := make(map[netip.Addr]bool)
	for i := range 100 {
		e.Session = fmt.Sprint("s", i)
		for _, family := range []resolver.Family{resolver.IPv4, resolver.IPv6} {
			first, ofPrefix := e.pick(family)
			again, _ := e.pick(family)
			if first != again || !ofPrefix || !e.includes(first) || resolver.FamilyOf(first) != family {
				t.Fatalf("session %d: %s, then %s", i, first, again)
			}
			seen[first] = true
		}
	}
	if len(seen) < 100+10 {
		t.Errorf("100 sessions have %d sources", len(seen))
	}
}
