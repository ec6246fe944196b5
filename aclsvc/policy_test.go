package aclsvc

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cleversocks/authsvc"
	"cleversocks/conn/netaddr"
	"cleversocks/conn/wire"
)

func compile(tb testing.TB, o Options) *Policy {
	tb.Helper()
	p, err := Compile(o)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func query(name string, port uint16) *Query {
	return &Query{Source: netip.MustParseAddr("192.0.2.7"), Command: wire.CommandConnect, Name: name, Port: port}
}

func TestDecide(t *testing.T) {
	mixed := []Rule{
		{Action: "deny", Ports: []netaddr.PortRange{{First: 25, Last: 25}, {First: 465, Last: 587}}, Where: "c.toml:3"},
		{Action: "allow", To: []string{"10.1.0.0/16", "*.corp.example"}, Users: []string{"alice"}, Groups: []string{"staff"}, Where: "c.toml:5"},
		{Action: "deny", To: []string{"203.0.113.5-203.0.113.9", "evil.example"}},
		{Action: "allow", From: prefixes("192.0.2.0/24"), Commands: []string{"connect", "udp"}},
	}
	alice := authsvc.Identity{User: "alice"}
	staff := authsvc.Identity{User: "bob", Groups: []string{"x", "staff"}}
	tests := []struct {
		name string
		o    Options
		id   authsvc.Identity
		host string
		addr string
		port uint16
		want string // "+rule" allows, "-rule" denies
	}{
		{"port", Options{Rules: mixed, BlockPrivate: true}, alice, "", "10.1.2.3", 25, "-acl.rules[0]"},
		{"port range", Options{Rules: mixed}, alice, "", "8.8.8.8", 500, "-acl.rules[0]"},
		{"cidr lifts block", Options{Rules: mixed, BlockPrivate: true}, alice, "", "10.1.2.3", 80, "+acl.rules[1]"},
		{"group", Options{Rules: mixed, BlockPrivate: true}, staff, "", "10.1.2.3", 80, "+acl.rules[1]"},
		{"not the user", Options{Rules: mixed, BlockPrivate: true}, authsvc.Identity{User: "eve"}, "", "10.1.2.3", 80, "-block_private"},
		{"name never lifts", Options{Rules: mixed, BlockPrivate: true}, alice, "a.corp.example", "10.2.0.1", 80, "-block_private"},
		{"name allows public", Options{Rules: mixed, BlockPrivate: true}, alice, "a.b.corp.example", "8.8.8.8", 80, "+acl.rules[1]"},
		{"suffix is not the apex", Options{Rules: mixed}, alice, "corp.example", "8.8.8.8", 80, "+acl.rules[3]"},
		{"suffix is whole labels", Options{Rules: mixed}, alice, "evilcorp.example", "8.8.8.8", 80, "+acl.rules[3]"},
		{"range", Options{Rules: mixed}, alice, "", "203.0.113.7", 80, "-acl.rules[2]"},
		{"past the range", Options{Rules: mixed}, alice, "", "203.0.113.10", 80, "+acl.rules[3]"},
		{"denied name", Options{Rules: mixed}, alice, "evil.example", "8.8.8.8", 80, "-acl.rules[2]"},
		{"any allow never lifts", Options{Rules: mixed, BlockPrivate: true}, alice, "", "127.0.0.1", 80, "-block_private"},
		{"default never lifts", Options{DefaultAllow: true, BlockPrivate: true}, alice, "", "169.254.169.254", 80, "-block_private"},
		{"later cidr lifts", Options{Rules: []Rule{
			{Action: "allow", To: []string{"*.corp.example"}},
			{Action: "allow", To: []string{"10.0.0.0/8"}},
		}, BlockPrivate: true}, alice, "a.corp.example", "10.0.0.1", 80, "+acl.rules[1]"},
		{"mapped", Options{DefaultAllow: true, BlockPrivate: true}, alice, "", "::ffff:127.0.0.1", 80, "-block_private"},
		{"nat64 private", Options{DefaultAllow: true, BlockPrivate: true}, alice, "", "64:ff9b::10.0.0.1", 80, "-block_private"},
		{"nat64 public", Options{DefaultAllow: true, BlockPrivate: true}, alice, "", "64:ff9b::8.8.8.8", 80, "+default"},
		{"nat64 allowed by v4", Options{Rules: []Rule{{Action: "allow", To: []string{"8.8.8.0/24"}}}, BlockPrivate: true}, alice, "", "64:ff9b::8.8.8.8", 80, "+acl.rules[0]"},
		{"nat64 denied by v4", Options{Rules: []Rule{{Action: "allow", To: []string{"::/0"}}, {Action: "deny", To: []string{"8.8.8.0/24"}}}, DefaultAllow: true}, alice, "", "64:ff9b::8.8.8.8", 80, "-acl.rules[1]"},
		{"nat64 denied by its own form", Options{Rules: []Rule{{Action: "deny", To: []string{"64:ff9b::/96"}}}, DefaultAllow: true}, alice, "", "64:ff9b::8.8.8.8", 80, "-acl.rules[0]"},
		{"nat64 allowed by its prefix", Options{Rules: []Rule{{Action: "allow", To: []string{"64:ff9b::/96"}}}, BlockPrivate: true}, alice, "", "64:ff9b::8.8.8.8", 80, "+acl.rules[0]"},
		{"nat64 prefix lifts nothing", Options{Rules: []Rule{{Action: "allow", To: []string{"64:ff9b::/96", "::/0"}}}, BlockPrivate: true}, alice, "", "64:ff9b::10.0.0.1", 80, "-block_private"},
		{"configured nat64 in a ULA", Options{NAT64: prefixes("fd00:64::/96"), DefaultAllow: true, BlockPrivate: true}, alice, "", "fd00:64::8.8.8.8", 80, "+default"},
		{"configured nat64 private", Options{NAT64: prefixes("fd00:64::/96"), DefaultAllow: true, BlockPrivate: true}, alice, "", "fd00:64::7f00:1", 80, "-block_private"},
		{"6to4", Options{DefaultAllow: true, BlockPrivate: true}, alice, "", "2002:a00:1::1", 80, "-block_private"},
		{"compatible", Options{DefaultAllow: true, BlockPrivate: true}, alice, "", "::10.0.0.1", 80, "-block_private"},
		{"loopback6", Options{DefaultAllow: true, BlockPrivate: true}, alice, "", "::1", 80, "-block_private"},
		{"zone", Options{DefaultAllow: true, BlockPrivate: true}, alice, "", "fe80::1%eth0", 80, "-block_private"},
		{"report only", Options{DefaultAllow: true, BlockPrivate: true, ReportOnly: true}, alice, "", "::1", 80, "~block_private"},
		{"default deny", Options{}, alice, "", "8.8.8.8", 80, "-default"},
		{"open", Options{DefaultAllow: true}, alice, "", "127.0.0.1", 80, "+default"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q := query(tt.host, tt.port)
			q.Identity = tt.id
			got := brief(compile(t, tt.o).Decide(q, netip.MustParseAddr(tt.addr)))
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func brief(d Decision) string {
	switch {
	case d.Reported:
		return "~" + d.Rule
	case d.Allow:
		return "+" + d.Rule
	}
	return "-" + d.Rule
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// TestRFC6052 takes the examples of RFC 6052 §2.4.
func TestRFC6052(t *testing.T) {
	for prefix, addr := range map[string]string{
		"2001:db8::/32":            "2001:db8:c000:221::",
		"2001:db8:100::/40":        "2001:db8:1c0:2:21::",
		"2001:db8:122::/48":        "2001:db8:122:c000:2:2100::",
		"2001:db8:122:300::/56":    "2001:db8:122:3c0:0:221::",
		"2001:db8:122:344::/64":    "2001:db8:122:344:c0:2:2100::",
		"2001:db8:122:344::/96":    "2001:db8:122:344::192.0.2.33",
		"64:ff9b::/96":             "64:ff9b::192.0.2.33",
		"64:ff9b:1:fffe::/96":      "64:ff9b:1:fffe::192.0.2.33",
		"fd00:0:0:0:0:0:0:0/64":    "fd00::c0:2:2100:0",
		"2001:db8:ffff:ffff::5/96": "2001:db8:ffff:ffff::192.0.2.33",
	} {
		p := compile(t, Options{NAT64: prefixes(prefix)})
		if got, _ := p.unwrap(netip.MustParseAddr(addr)); got.String() != "192.0.2.33" {
			t.Errorf("%s in %s: got %s", addr, prefix, got)
		}
	}
	if _, err := Compile(Options{NAT64: prefixes("2001:db8::/33")}); err == nil {
		t.Error("a /33 was taken for a NAT64 prefix")
	}
}

func TestDecideName(t *testing.T) {
	tests := []struct {
		name    string
		rules   []Rule
		def     bool
		host    string
		want    string
		certain bool
	}{
		{"denied name", []Rule{{Action: "deny", To: []string{"*.evil"}}}, true, "a.evil", "-acl.rules[0]", true},
		{"allowed cidr first", []Rule{{Action: "allow", To: []string{"8.8.8.0/24"}}, {Action: "deny", To: []string{"*.evil"}}}, true, "a.evil", "-acl.rules[1]", false},
		{"another's cidr first", []Rule{{Action: "allow", Users: []string{"x"}, To: []string{"8.8.8.0/24"}}, {Action: "deny", To: []string{"*.evil"}}}, true, "a.evil", "-acl.rules[1]", true},
		{"denied cidr first", []Rule{{Action: "deny", To: []string{"8.8.8.0/24"}}, {Action: "deny"}}, true, "a.evil", "-acl.rules[1]", true},
		{"default deny, an address might do", []Rule{{Action: "allow", To: []string{"8.8.8.0/24"}}}, false, "a.b", "-default", false},
		{"default deny, only names", []Rule{{Action: "allow", To: []string{"c.d"}}}, false, "a.b", "-default", true},
		{"allowed", []Rule{{Action: "allow", To: []string{"c.d"}}}, false, "c.d", "+acl.rules[0]", false},
		{"literal", nil, true, "127.0.0.1", "-block_private", true},
		{"bracketed literal", nil, true, "[::1]", "-block_private", true},
		{"public literal", nil, true, "2001:4860::8888", "+default", false},
		{"no name", nil, true, "", "+default", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := compile(t, Options{Rules: tt.rules, DefaultAllow: tt.def, BlockPrivate: true})
			d, certain := p.DecideName(query(tt.host, 443))
			if brief(d) != tt.want || certain != tt.certain {
				t.Errorf("got %s, %v; want %s, %v", brief(d), certain, tt.want, tt.certain)
			}
		})
	}
}

func localsOf(t *testing.T, ranges ...string) *Locals {
	t.Helper()
	var list []netip.Prefix
	for _, r := range ranges {
		list = append(list, netip.MustParsePrefix(r))
	}
	l, err := NewLocals(LocalsOptions{List: func() ([]netip.Prefix, error) { return list, nil }})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestHostsReachTheListeners: with a range routed here (ip route add local), or
// behind a NAT that brings the advertised address back, a client reached the
// proxy through itself, and the admin endpoint.
func TestHostsReachTheListeners(t *testing.T) {
	p := compile(t, Options{
		DefaultAllow: true, Locals: localsOf(t, "198.51.100.0/25"),
		Hosts:      []netip.Prefix{netip.MustParsePrefix("2001:db8:7::/48")},
		Advertised: []netip.Addr{netip.MustParseAddr("203.0.113.7")},
		Listeners:  []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:1080"), netip.MustParseAddrPort("[::]:1081"), netip.MustParseAddrPort("127.0.0.1:9180")},
	})
	for target, own := range map[string]bool{
		"198.51.100.77:1080": true, "198.51.100.200:1080": false, "[2001:db8:7::5]:1081": true, "[2001:db8:8::5]:1081": false,
		"203.0.113.7:1080": true, "203.0.113.7:9180": true, "203.0.113.7:443": false, "203.0.113.8:1080": false,
	} {
		ap := netip.MustParseAddrPort(target)
		if d := p.Decide(query("", ap.Port()), ap.Addr()); (d.Rule == ByOwnListener) != own {
			t.Errorf("%s: %+v", target, d)
		}
	}
}

// TestOwnPublicAddresses: a service that a firewall keeps from the outside was
// reached through the proxy by the host's public address, with block_private
// on. A rule that names the address lifts it, one that names a host does not.
func TestOwnPublicAddresses(t *testing.T) {
	o := Options{DefaultAllow: true, BlockPrivate: true, Locals: localsOf(t, "93.184.216.34/32")}
	host, other := netip.MustParseAddr("93.184.216.34"), netip.MustParseAddr("93.184.216.35")
	named := query("www.example.com", 443)
	if d := compile(t, o).Decide(named, host); d.Allow || d.Rule != ByBlockPrivate {
		t.Errorf("%+v", d)
	}
	if d := compile(t, o).Decide(named, other); !d.Allow {
		t.Errorf("%+v", d)
	}
	o.Rules = []Rule{{Action: "allow", To: []string{"www.example.com"}}}
	if d := compile(t, o).Decide(named, host); d.Allow {
		t.Errorf("a name lifts it: %+v", d)
	}
	o.Rules = []Rule{{Action: "allow", To: []string{"93.184.216.34"}, Ports: []netaddr.PortRange{{First: 443, Last: 443}}}}
	if d := compile(t, o).Decide(named, host); !d.Allow {
		t.Errorf("an address does not lift it: %+v", d)
	}
	o.BlockPrivate = false
	if d := compile(t, o).Decide(query("", 22), host); !d.Allow {
		t.Errorf("%+v", d)
	}
}

func TestOwnListeners(t *testing.T) {
	locals := localsOf(t, "192.0.2.1/32")
	p := compile(t, Options{
		Rules:        []Rule{{Action: "allow", To: []string{"0.0.0.0/0", "::/0"}}},
		DefaultAllow: true, ReportOnly: true, Locals: locals,
		Listeners: []netip.AddrPort{netip.MustParseAddrPort("[::]:1080"), netip.MustParseAddrPort("127.0.0.1:9180")},
	})
	for target, own := range map[string]bool{
		"127.0.0.1:1080": true, "127.1.2.3:1080": true, "[::1]:1080": true, "192.0.2.1:1080": true, "0.0.0.0:1080": true,
		"[::ffff:192.0.2.1]:1080": true, "[64:ff9b::192.0.2.1]:1080": true, "[2002:c000:201::]:1080": true, "[::]:9180": true,
		"127.0.0.1:9180": true, "127.0.0.2:9180": false, "192.0.2.2:1080": false, "192.0.2.1:1081": false, "[::]:80": false,
	} {
		ap := netip.MustParseAddrPort(target)
		if d := p.Decide(query("", ap.Port()), ap.Addr()); (d.Rule == ByOwnListener) != own || d.Allow == own {
			t.Errorf("%s: %+v", target, d)
		}
	}
}

func TestPanicDenies(t *testing.T) {
	var told []any
	p := compile(t, Options{
		Rules:        []Rule{{Action: "allow", To: []string{"8.8.8.8", "a.b"}}},
		DefaultAllow: true, ReportOnly: true, OnPanic: func(v any, _ Query) { told = append(told, v) },
	})
	p.rules = p.rules[:0:0] // what the index names is gone
	p.index.any = []int32{0}
	p.fallback = Decision{Allow: true}
	p.index.nodes[0].parent = 7
	if d := p.Decide(query("", 80), netip.MustParseAddr("8.8.8.8")); d != (Decision{Rule: ByPanic}) {
		t.Errorf("decided %+v", d)
	}
	if d, certain := p.DecideName(nil); d != (Decision{Rule: ByPanic}) || !certain {
		t.Errorf("decided %+v, %v", d, certain)
	}
	if len(told) != 1 {
		t.Errorf("told of %v", told)
	}
}

func TestExplain(t *testing.T) {
	p := compile(t, Options{Rules: []Rule{
		{Action: "deny", To: []string{"*.evil"}, Where: "c.toml:7"},
		{Action: "allow", To: []string{"8.8.0.0/16"}, Where: "c.toml:9"},
	}, DefaultAllow: true, BlockPrivate: true})
	q := query("a.example", 443)
	q.Identity.User = "alice"
	got := p.Explain(q, []netip.Addr{netip.MustParseAddr("64:ff9b::8.8.8.8"), netip.MustParseAddr("10.0.0.1")})
	want := `user "alice" from 192.0.2.7: connect port 443
  name a.example: allow by default; each address is judged once it is known (an upstream that resolves has only this)
  address 64:ff9b::808:808 (is 8.8.8.8, listed as 8.8.0.0/16): allow by acl.rules[1] (c.toml:9)
  address 10.0.0.1 (private): deny by block_private (Private-Use (RFC 1918); only a rule that allows it by CIDR lifts that)
result: allow, to 1 of 2 addresses
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	q.Name = "x.evil"
	if got = p.Explain(q, nil); !strings.Contains(got, "c.toml:7") || !strings.HasSuffix(got, "result: deny, before DNS is asked\n") {
		t.Error(got)
	}
}

func TestDecideUnknown(t *testing.T) {
	udp := Query{Command: wire.CommandUDPAssociate, Identity: authsvc.Identity{User: "ann"}}
	for name, tt := range map[string]struct {
		rules []Rule
		allow bool // by default
		want  string
	}{
		"no rule":                     {nil, true, ""},
		"default deny":                {nil, false, "default"},
		"all of the command":          {[]Rule{{Action: "deny", Commands: []string{"udp"}}}, true, "acl.rules[0]"},
		"of another":                  {[]Rule{{Action: "deny", Commands: []string{"bind"}}}, true, ""},
		"some ports":                  {[]Rule{{Action: "deny", Ports: []netaddr.PortRange{{First: 25, Last: 25}}}}, true, ""},
		"somewhere":                   {[]Rule{{Action: "deny", To: []string{"10.0.0.0/8"}}}, true, ""},
		"default deny, allowed a bit": {[]Rule{{Action: "allow", Ports: []netaddr.PortRange{{First: 53, Last: 53}}}}, false, ""},
		"denied after an allowance":   {[]Rule{{Action: "allow", To: []string{"192.0.2.1"}}, {Action: "deny"}}, true, ""},
		"denied before it":            {[]Rule{{Action: "deny", Users: []string{"ann"}}, {Action: "allow"}}, true, "acl.rules[0]"},
		"another user":                {[]Rule{{Action: "deny", Users: []string{"bob"}}}, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Compile(Options{Rules: tt.rules, DefaultAllow: tt.allow})
			if err != nil {
				t.Fatal(err)
			}
			if d := p.DecideUnknown(&udp); d.Allow != (tt.want == "") || !d.Allow && d.Rule != tt.want {
				t.Errorf("%+v, want denied by %q", d, tt.want)
			}
		})
	}
}
