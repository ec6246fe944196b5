package aclsvc

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"

	"cleversocks/conn/netaddr"
)

// bigPolicy is 100,000 CIDRs and 100,000 names: one list of both, or as many
// rules as entries.
func bigPolicy(tb testing.TB, perRule bool) *Policy {
	tb.Helper()
	const n = 100_000
	to := make([]string, 0, 2*n)
	for i := range uint32(n) {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], 0x20000000+i*0x100*7)
		p := netip.PrefixFrom(netip.AddrFrom4(b), 20+int(i%13)).Masked()
		to = append(to, p.String())
		if i%2 == 0 {
			to = append(to, fmt.Sprintf("host%d.example.com", i))
		} else {
			to = append(to, fmt.Sprintf("*.zone%d.example.net", i))
		}
	}
	o := Options{DefaultAllow: true, BlockPrivate: true}
	if perRule {
		for _, s := range to {
			o.Rules = append(o.Rules, Rule{Action: "deny", To: []string{s}, Ports: []netaddr.PortRange{{First: 1, Last: 1023}}})
		}
		return compile(tb, o)
	}
	o.Rules = []Rule{
		{Action: "deny", Ports: []netaddr.PortRange{{First: 25, Last: 25}}},
		{Action: "deny", To: []string{"file:list"}},
		{Action: "allow", To: []string{"10.0.0.0/8"}, Users: []string{"alice"}},
	}
	o.Open = func(string) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(strings.Join(to, "\n"))), nil
	}
	return compile(tb, o)
}

func benchQueries() map[string]struct {
	q    *Query
	addr netip.Addr
} {
	type c = struct {
		q    *Query
		addr netip.Addr
	}
	return map[string]c{
		"miss v4":         {query("www.example.org", 443), netip.MustParseAddr("8.8.8.8")},
		"hit v4":          {query("", 443), netip.MustParseAddr("32.0.7.1")},
		"hit name":        {query("host50000.example.com", 443), netip.MustParseAddr("8.8.8.8")},
		"hit suffix":      {query("a.b.zone50001.example.net", 443), netip.MustParseAddr("8.8.8.8")},
		"miss v6":         {query("www.example.org", 443), netip.MustParseAddr("2001:db8::1")},
		"nat64":           {query("www.example.org", 443), netip.MustParseAddr("64:ff9b::8.8.8.8")},
		"hundred labels":  {query(strings.Repeat("a.", 100)+"example.org", 443), netip.MustParseAddr("8.8.8.8")},
		"private blocked": {query("www.example.org", 443), netip.MustParseAddr("10.0.0.1")},
	}
}

func BenchmarkDecide(b *testing.B) {
	for _, perRule := range []bool{false, true} {
		p := bigPolicy(b, perRule)
		for name, c := range benchQueries() {
			b.Run(fmt.Sprintf("rules=%d/%s", p.Rules(), name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					p.Decide(c.q, c.addr)
				}
			})
			b.Run(fmt.Sprintf("rules=%d/by name/%s", p.Rules(), name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					p.DecideName(c.q)
				}
			})
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	for b.Loop() {
		bigPolicy(b, false)
	}
}

func TestDecideAllocatesNothing(t *testing.T) {
	p := bigPolicy(t, false)
	for name, c := range benchQueries() {
		if n := testing.AllocsPerRun(100, func() {
			p.Decide(c.q, c.addr)
			p.DecideName(c.q)
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
