package config

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestResolver(t *testing.T) {
	c, err := load(t, "[resolver]\nservers = ['tls://192.0.2.1#dns.example', 'system']\ncache = { size = 16, max_ttl = '0s' }\nnat64 = ['2001:db8:1::/96', '2001:db8:2:ffff::1/48']\n", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := c.Resolver
	got := []string{string(r.Servers[0]), string(r.Servers[1]), r.Timeout.String(), r.Cache.NegativeTTL.String(), r.NAT64[0].String(), r.NAT64[1].String()}
	want := []string{"tls://192.0.2.1#dns.example", "system", "5s", "30s", "2001:db8:1::/96", "2001:db8:2::/48"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for name, tt := range map[string]struct{ file, err string }{
		"no server":     {"[resolver]\nservers = []", "c.toml:2:1: resolver.servers: must have at least one element"},
		"bad server":    {"[resolver]\nservers = ['system', 'udp://dns.example']", `c.toml:2:1: resolver.servers: element 2: "udp://dns.example": needs an address`},
		"bad family":    {"[resolver]\nfamily = 'ipx'", `resolver.family: must be one of "auto", "ipv4", "ipv6"`},
		"bad NAT64":     {"[resolver]\nnat64 = ['2001:db8::/95']", "c.toml:2:1: resolver.nat64: 2001:db8::/95: must be"},
		"no prefix":     {"[resolver]\nnat64 = ['x']", "resolver.nat64: element 1: must be an IP address or CIDR"},
		"min above max": {"[resolver]\ncache = { min_ttl = '2h' }", "c.toml:2:11: resolver.cache.min_ttl: 2h is more than resolver.cache.max_ttl, 1h"},
	} {
		if _, err := load(t, tt.file, nil, nil); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: got %v, want %q", name, err, tt.err)
		}
	}
}
