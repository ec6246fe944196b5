package aclsvc

import (
	"net/netip"
	"testing"

	"cleversocks/conn/wire"
)

// TestEverySpecialRange walks the table: the first and the last address of
// each range are denied, or are not where the range is public, but for those
// that a longer range decides; the neighbours outside are not this range's.
func TestEverySpecialRange(t *testing.T) {
	p, err := Compile(Options{DefaultAllow: true, BlockPrivate: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range specials {
		prefix := netip.MustParsePrefix(s.prefix)
		if prefix != prefix.Masked() {
			t.Errorf("%s has host bits", s.prefix)
		}
		if s.name == "" {
			t.Errorf("%s has no name", s.prefix)
		}
		for _, addr := range []netip.Addr{prefix.Addr(), lastOf(prefix)} {
			if decider, _ := p.block.table.Lookup(addr); decider.prefix != s.prefix {
				continue
			}
			d := p.Decide(&Query{Command: wire.CommandConnect, Port: 443}, addr)
			if _, carries := p.unwrap(addr); carries == 0 && d.Allow != s.public {
				t.Errorf("%s of %s (%s): %+v", addr, s.prefix, s.name, d)
			}
		}
	}
}

// TestBlockPrivateCoversTheRegistries: the ranges that the registries gained
// (SRv6, dummies, documentation) and those that carry an IPv4 address in other
// ways than NAT64 were taken for hosts on the internet.
func TestBlockPrivateCoversTheRegistries(t *testing.T) {
	p, err := Compile(Options{DefaultAllow: true, BlockPrivate: true})
	if err != nil {
		t.Fatal(err)
	}
	for addr, allow := range map[string]bool{
		"2001:2::1": false, "5f00::1": false, "100:0:0:1::1": false, "192.0.2.1": false, "198.51.100.1": false,
		"203.0.113.1": false, "2001:db8::1": false, "3fff::1": false, "2001:40::1": false, "192.0.0.192": false,
		"2001:0:53aa:64c:0:0:f5ff:fffe":   false, // Teredo, of 10.0.0.1
		"2001:0:53aa:64c:0:0:f7f7:f7f7":   true,  // of 8.8.8.8
		"2a00:1450::5efe:10.0.0.1":        false, // ISATAP
		"2a00:1450::200:5efe:192.168.0.1": false, // ISATAP of an address that was taken for a global one
		"2a00:1450::5efe:8.8.8.8":         true,
		"fe80::5efe:8.8.8.8":              false, // a public address does not make the link public
		"2002:a00:1::1":                   false, // 6to4, of 10.0.0.1
		"2002:808:808::1":                 true,
		"64:ff9b::10.0.0.1":               false,
		"64:ff9b::8.8.8.8":                true,
		"8.8.8.8":                         true,
		"2606:4700::1":                    true,
		"192.31.196.1":                    true,
		"2001:4:112::1":                   true,
		"::ffff:10.0.0.1":                 false,
		"::10.0.0.1":                      false,
		"::ffff:0:10.0.0.1":               false,
		"2001:0:53aa:64c:0:0:5601:5601":   false, // Teredo, of 169.254.169.254
		"2a00:1450::5efe:169.254.169.254": false,
	} {
		d := p.Decide(&Query{Command: wire.CommandConnect, Port: 443}, netip.MustParseAddr(addr))
		if d.Allow != allow {
			t.Errorf("%s: %+v", addr, d)
		}
	}
}
