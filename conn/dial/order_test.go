package dial

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"cleversocks/resolver"
)

var compareAddrs = cmpopts.EquateComparable(netip.Addr{})

// TestOrder holds the examples of RFC 6724 §10.2 that need no knowledge of
// deprecated or home addresses, and the interleaving.
func TestOrder(t *testing.T) {
	for _, tt := range []struct {
		name    string
		dest    []string
		sources []string // "" cannot be reached
		want    []string
	}{
		{"matching scope", []string{"2001:db8:1::1", "198.51.100.121"}, []string{"2001:db8:1::2", "169.254.13.78"}, []string{"2001:db8:1::1", "198.51.100.121"}},
		{"matching scope, IPv4", []string{"2001:db8:1::1", "198.51.100.121"}, []string{"fe80::1", "198.51.100.117"}, []string{"198.51.100.121", "2001:db8:1::1"}},
		{"higher precedence", []string{"10.1.2.3", "2001:db8:1::1"}, []string{"10.1.2.4", "2001:db8:1::2"}, []string{"2001:db8:1::1", "10.1.2.3"}},
		{"smaller scope", []string{"2001:db8:1::1", "fe80::1"}, []string{"2001:db8:1::2", "fe80::2"}, []string{"fe80::1", "2001:db8:1::1"}},
		{"longest match", []string{"2001:db8:3ffe::1", "2001:db8:1::1"}, []string{"2001:db8:3f44::2", "2001:db8:1::2"}, []string{"2001:db8:1::1", "2001:db8:3ffe::1"}},
		{"6to4 label", []string{"2001:db8:1::1", "2002:c633:6401::1"}, []string{"2002:c633:6401::2", "2002:c633:6401::2"}, []string{"2002:c633:6401::1", "2001:db8:1::1"}},
		{"native over 6to4", []string{"2002:c633:6401::1", "2001:db8:1::1"}, []string{"2002:c633:6401::2", "2001:db8:1::2"}, []string{"2001:db8:1::1", "2002:c633:6401::1"}},
		{"unreachable last", []string{"2001:db8:1::1", "192.0.2.1"}, []string{"", "198.51.100.1"}, []string{"192.0.2.1", "2001:db8:1::1"}},
		{"ULA without one here", []string{"fd00::1", "192.0.2.1"}, []string{"2001:db8::2", "198.51.100.1"}, []string{"192.0.2.1", "fd00::1"}},
		{"IPv4 as it came", []string{"192.0.2.9", "198.51.100.2", "192.0.2.1"}, []string{"192.0.2.2", "192.0.2.2", "192.0.2.2"}, []string{"192.0.2.9", "198.51.100.2", "192.0.2.1"}},
		{
			"interleaved",
			[]string{"192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "192.0.2.3"},
			[]string{"198.51.100.1", "198.51.100.1", "2001:db8::9", "2001:db8::9", "198.51.100.1"},
			[]string{"2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "192.0.2.3"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dest := addrs(tt.dest...)
			source := func(dst netip.Addr) netip.Addr {
				if s := tt.sources[slices.Index(dest, dst)]; s != "" {
					return netip.MustParseAddr(s)
				}
				return netip.Addr{}
			}
			got := order(dest, source, netip.Addr{}, 0)
			if diff := cmp.Diff(addrs(tt.want...), got, compareAddrs); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestOrderKeepsAll: whatever comes in comes out once, the winner first, and
// after it the other family, if there is one.
func TestOrderKeepsAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) netip.Addr {
			raw := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "address")
			if rapid.Bool().Draw(t, "v4") {
				raw = raw[:4]
			}
			a, _ := netip.AddrFromSlice(raw)
			return a.Unmap()
		}), 1, 12, rapid.ID).Draw(t, "addresses")
		won := in[rapid.IntRange(0, len(in)-1).Draw(t, "won")]
		out := order(in, func(a netip.Addr) netip.Addr { return a }, won, 0)
		if out[0] != won {
			t.Fatalf("%v does not begin with %v", out, won)
		}
		other := slices.ContainsFunc(in, func(a netip.Addr) bool { return resolver.FamilyOf(a) != resolver.FamilyOf(won) })
		if other && resolver.FamilyOf(out[1]) == resolver.FamilyOf(won) {
			t.Fatalf("%v: the other family does not follow", out)
		}
		slices.SortFunc(out, netip.Addr.Compare)
		sorted := slices.SortedFunc(slices.Values(in), netip.Addr.Compare)
		if !slices.Equal(out, sorted) {
			t.Fatalf("%v became %v", sorted, out)
		}
	})
}

// TestSourceAddr asks the real kernel.
func TestSourceAddr(t *testing.T) {
	for _, a := range addrs("127.0.0.1", "::1") {
		if got := sourceAddr(a, Egress{}); got != a {
			t.Errorf("source for %s is %s", a, got)
		}
	}
	if got := sourceAddr(netip.MustParseAddr("127.0.0.1"), Egress{Interface: "no-such-if0"}); got.IsValid() {
		t.Errorf("source through an interface that does not exist: %s", got)
	}
}
