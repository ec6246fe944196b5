package aclsvc

import (
	"net/netip"
	"testing"
)

// TestAsked: where a search list makes "wiki.corp.example" of "wiki", the name
// that answers is judged. A rule about the single label as it was asked for
// counts in its order; one about a name with dots does not, or "foo.example"
// would be allowed to become "foo.example.corp.example". Neither lifts
// block_private.
func TestAsked(t *testing.T) {
	const public, private = "198.51.101.1", "10.0.0.1"
	allow := func(to ...string) Rule { return Rule{Action: "allow", To: to} }
	deny := func(to ...string) Rule { return Rule{Action: "deny", To: to} }
	for name, tt := range map[string]struct {
		rules       []Rule
		name, asked string
		address     string
		allowed     bool
	}{
		"denied by the full name":           {[]Rule{deny("*.corp.example"), allow()}, "wiki.corp.example", "wiki", public, false},
		"denied as asked":                   {[]Rule{deny("wiki"), allow()}, "wiki.corp.example", "wiki", public, false},
		"allowed by the full name":          {[]Rule{allow("*.corp.example")}, "wiki.corp.example", "wiki", public, true},
		"allowed as asked":                  {[]Rule{allow("wiki")}, "wiki.corp.example", "wiki", public, true},
		"allowed as asked, denied in front": {[]Rule{deny("*.corp.example"), allow("wiki")}, "wiki.corp.example", "wiki", public, false},
		"allowed as asked, before all":      {[]Rule{allow("wiki"), deny()}, "wiki.corp.example", "wiki", public, true},
		"allowed as asked, private":         {[]Rule{allow("wiki")}, "wiki.corp.example", "wiki", private, false},
		"another label":                     {[]Rule{allow("wiki")}, "db.corp.example", "db", public, false},
		"asked in full":                     {[]Rule{allow("wiki")}, "wiki.corp.example", "", public, false},
		"a name with dots is not stretched": {[]Rule{allow("foo.example")}, "foo.example.corp.example", "foo.example", public, false},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Compile(Options{Rules: tt.rules, BlockPrivate: true})
			if err != nil {
				t.Fatal(err)
			}
			q := Query{Name: tt.name, Asked: tt.asked, Port: 443}
			if d := p.Decide(&q, netip.MustParseAddr(tt.address)); d.Allow != tt.allowed {
				t.Errorf("allowed %t by %s, want %t", d.Allow, d.Rule, tt.allowed)
			}
			if d, _ := p.DecideName(&q); d.Allow != tt.allowed && tt.address == public {
				t.Errorf("by the name: allowed %t by %s, want %t", d.Allow, d.Rule, tt.allowed)
			}
		})
	}
}

// TestDecideNamed: only a rule that names it decides about a name that stands
// for others.
func TestDecideNamed(t *testing.T) {
	for name, tt := range map[string]struct {
		rules          []Rule
		named, allowed bool
	}{
		"denied by default":     {nil, false, true},
		"denied with all":       {[]Rule{{Action: "deny"}}, false, true},
		"denied by name":        {[]Rule{{Action: "deny", To: []string{"wiki"}}}, true, false},
		"allowed by name":       {[]Rule{{Action: "allow", To: []string{"wiki"}}}, true, true},
		"all are allowed first": {[]Rule{{Action: "allow"}, {Action: "deny", To: []string{"wiki"}}}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Compile(Options{Rules: tt.rules})
			if err != nil {
				t.Fatal(err)
			}
			if d, named := p.DecideNamed(&Query{Name: "wiki", Port: 443}); named != tt.named || d.Allow != tt.allowed {
				t.Errorf("%+v, %t", d, named)
			}
		})
	}
}
