package aclsvc

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"cleversocks/authsvc"
	"cleversocks/conn/netaddr"
	"cleversocks/conn/wire"
)

// naive decides as the documentation reads: rule by rule, with nothing
// compiled.
func naive(o Options, q *Query, addr netip.Addr) Decision {
	outer := addr.Unmap()
	inner, carrier := outer, 0
	for _, n := range append(slices.Clone(o.NAT64), netip.MustParsePrefix("64:ff9b::/96")) {
		if n.Contains(outer) && carrier == 0 {
			b := outer.As16()
			inner, carrier = netip.AddrFrom4([4]byte(b[12:])), 96
		}
	}
	if netip.MustParsePrefix("2002::/16").Contains(outer) {
		b := outer.As16()
		inner, carrier = netip.AddrFrom4([4]byte(b[2:6])), 16
	}
	private := o.BlockPrivate && naiveSpecial(inner)
	for i, r := range o.Rules {
		if !naiveConcerns(r, q) {
			continue
		}
		named, byCIDR := naiveTo(r, q.Name, inner, outer, carrier)
		if byCIDR || named && (r.Action == "deny" || !private) {
			return Decision{Allow: r.Action == "allow", Rule: fmt.Sprintf("acl.rules[%d]", i)}
		}
	}
	if private {
		return Decision{Rule: ByBlockPrivate}
	}
	return Decision{Allow: o.DefaultAllow, Rule: ByDefault}
}

// naiveSpecial looks for the longest range by trying all.
func naiveSpecial(addr netip.Addr) bool {
	longest, private := -1, false
	for _, s := range specials {
		if p := netip.MustParsePrefix(s.prefix); p.Contains(addr) && p.Bits() > longest {
			longest, private = p.Bits(), !s.public
		}
	}
	return private
}

func naiveConcerns(r Rule, q *Query) bool {
	who := r.Users == nil && r.Groups == nil || slices.Contains(r.Users, q.Identity.User)
	for _, g := range q.Identity.Groups {
		who = who || slices.Contains(r.Groups, g)
	}
	from := r.From == nil
	for _, s := range r.From {
		from = from || s.Contains(q.Source)
	}
	ports := r.Ports == nil
	for _, s := range r.Ports {
		ports = ports || s.First <= q.Port && q.Port <= s.Last
	}
	commands := r.Commands == nil || slices.Contains(r.Commands, q.Command.String())
	return who && from && ports && commands
}

// naiveTo says whether "to" matches as a name (or is absent), and whether it
// matches as an address in a way that lifts or denies.
func naiveTo(r Rule, name string, inner, outer netip.Addr, carrier int) (named, byCIDR bool) {
	if r.To == nil {
		return true, false
	}
	for _, s := range r.To {
		if p, err := netip.ParsePrefix(s); err == nil {
			switch {
			case p.Contains(inner):
				byCIDR = true
			case !p.Contains(outer):
			case r.Action == "deny":
				byCIDR = true
			case p.Bits() >= carrier:
				named = true // allows, yet does not lift
			}
			continue
		}
		if first, last, ok := strings.Cut(s, "-"); ok {
			a, b := netip.MustParseAddr(first), netip.MustParseAddr(last)
			byCIDR = byCIDR || inner.BitLen() == a.BitLen() && !inner.Less(a) && !b.Less(inner)
			continue
		}
		if suffix, ok := strings.CutPrefix(s, "*"); ok {
			named = named || strings.HasSuffix(name, suffix)
		} else {
			named = named || name == s
		}
	}
	return named, byCIDR
}

// The pools are small, so that rules and requests meet often.
var (
	poolAddr = []string{
		"8.8.8.8", "8.8.9.1", "10.0.0.1", "10.1.2.3", "127.0.0.1", "169.254.169.254", "0.0.0.0", "2001:db8::1", "fd00::1", "::1", "::",
		"::ffff:10.0.0.1", "64:ff9b::10.1.2.3", "64:ff9b::8.8.8.8", "fd00:64::8.8.9.1", "fd00:64::127.0.0.1", "2002:a00:1::", "2002:808:808::5",
	}
	poolTo = []string{
		"0.0.0.0/0", "8.0.0.0/8", "8.8.8.0/24", "8.8.8.8/32", "10.0.0.0/8", "10.1.0.0/16", "::/0", "2000::/3", "64:ff9b::/96", "64:ff9b::a01:203/128",
		"fd00::/8", "fd00:64::/96", "2002::/16", "2002:a00::/24", "8.8.8.7-8.8.9.0", "10.0.0.0-10.0.255.255", "a.example", "*.example", "*.b.example", "x.b.example",
	}
	poolName = []string{"", "a.example", "x.b.example", "y.x.b.example", "example", "other"}
)

func someOf[T any](t *rapid.T, label string, pool []T) []T {
	if rapid.Bool().Draw(t, label+" absent") {
		return nil
	}
	return rapid.SliceOfN(rapid.SampledFrom(pool), 1, 3).Draw(t, label)
}

func drawOptions(t *rapid.T) Options {
	o := Options{
		DefaultAllow: rapid.Bool().Draw(t, "default"),
		BlockPrivate: rapid.Bool().Draw(t, "block"),
		NAT64:        prefixes("fd00:64::/96"),
	}
	for range rapid.IntRange(0, 6).Draw(t, "rules") {
		o.Rules = append(o.Rules, Rule{
			Action:   rapid.SampledFrom([]string{"allow", "deny"}).Draw(t, "action"),
			To:       someOf(t, "to", poolTo),
			Users:    someOf(t, "users", []string{"alice", "bob"}),
			Groups:   someOf(t, "groups", []string{"staff", "ops"}),
			From:     someOf(t, "from", prefixes("192.0.2.0/24", "2001:db8::/32", "0.0.0.0/0")),
			Ports:    someOf(t, "ports", []netaddr.PortRange{{First: 80, Last: 80}, {First: 1, Last: 100}, {First: 443, Last: 443}, {First: 400, Last: 500}, {First: 80, Last: 90}}),
			Commands: someOf(t, "commands", []string{"connect", "udp", "bind"}),
		})
	}
	return o
}

func drawQuery(t *rapid.T) *Query {
	return &Query{
		Identity: authsvc.Identity{
			User:   rapid.SampledFrom([]string{"", "alice", "bob", "eve"}).Draw(t, "user"),
			Groups: someOf(t, "member of", []string{"staff", "ops", "x"}),
		},
		Source:  netip.MustParseAddr(rapid.SampledFrom([]string{"192.0.2.7", "198.51.100.1", "2001:db8::9"}).Draw(t, "source")),
		Command: wire.Command(rapid.IntRange(1, 3).Draw(t, "command")),
		Name:    rapid.SampledFrom(poolName).Draw(t, "name"),
		Port:    rapid.SampledFrom([]uint16{80, 443, 90, 8080}).Draw(t, "port"),
	}
}

func TestDecideAgainstNaive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o, q := drawOptions(t), drawQuery(t)
		addr := netip.MustParseAddr(rapid.SampledFrom(poolAddr).Draw(t, "addr"))
		p, err := Compile(o)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := p.Decide(q, addr), naive(o, q, addr); got != want {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	})
}

// A certain denial holds for every address, and only what is no certain
// denial may be allowed for one.
func TestCertainDenialHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o, q := drawOptions(t), drawQuery(t)
		p, err := Compile(o)
		if err != nil {
			t.Fatal(err)
		}
		d, certain := p.DecideName(q)
		if certain && d.Allow {
			t.Fatalf("certain of %+v", d)
		}
		if !certain {
			return
		}
		for _, s := range poolAddr {
			if d := p.Decide(q, netip.MustParseAddr(s)); d.Allow {
				t.Fatalf("%s: %+v", s, d)
			}
		}
	})
}
