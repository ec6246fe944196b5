package config

import (
	"errors"
	"fmt"
	"strings"

	"cleversocks/aclsvc"
)

const (
	aclDoc  = "Who may reach what. The proxy's own listeners, admin included, are never a destination."
	ruleDoc = "A rule. The first that matches decides, for each address that a name resolves to: addresses that are denied drop out, and with none left the request is refused. What a rule leaves out, it does not restrict."
)

// ACL is the [acl] section and its rules.
type ACL struct {
	Default      string // allow or deny
	BlockPrivate AutoBool
	ReportOnly   bool
	Strict       bool
	Rules        []Rule
}

// Rule is one [[acl.rule]].
type Rule struct {
	Action    string
	Users     []string
	Groups    []string
	From      []Prefix
	Listeners []string
	To        []string
	Ports     []PortRange
	Commands  []string

	// Where is "file:line" of the rule.
	Where string
}

func (a *ACL) keys() []Key {
	return []Key{
		{
			Name: "default", Value: &a.Default, Default: "allow", Choices: []string{"allow", "deny"},
			Doc: "What becomes of a request that no rule matches.",
		},
		{
			Name: "block_private", Value: &a.BlockPrivate, Default: "auto",
			Doc: "Refuses loopback, RFC 1918, link-local, ULA, CGNAT, cloud metadata and the other addresses that the IANA special-purpose registries do not call globally reachable, also where an IPv6 address carries one (NAT64, 6to4, Teredo, ISATAP); and all addresses of this host, public ones too, as its services may be firewalled from outside alone. `auto`: once there is an `[[acl.rule]]`; the value in force is logged. Only a rule whose `to` names the address or a CIDR lifts it, a rule that allows a name never does.",
		},
		{
			Name: "report_only", Value: &a.ReportOnly, Default: "false",
			Doc: "Logs what the rules would deny, and allows it.",
		},
		{
			Name: "strict", Value: &a.Strict, Default: "false",
			Doc: "Refuses settings whose rules or forwarding rules name a user or a group that does not exist, which is otherwise a warning: a slip in a denial opens what it should close. (A listener that does not exist is an error at any rate.)",
		},
	}
}

func (r *Rule) keys() []Key {
	return []Key{
		{
			Name: "action", Value: &r.Action, Default: "deny", Choices: []string{"allow", "deny"},
			Doc: "What to do with what matches. It has to be given.",
		},
		{Name: "users", Value: &r.Users, Default: "", Optional: true, Doc: "Users. With `groups`, one of either is enough."},
		{Name: "groups", Value: &r.Groups, Default: "", Optional: true, Doc: "Groups of users."},
		{Name: "from", Value: &r.From, Default: "", Optional: true, Doc: "Addresses of clients."},
		{Name: "listeners", Value: &r.Listeners, Default: "", Optional: true, Doc: "The names of the listeners that clients came to, or the addresses of those without a name."},
		{
			Name: "to", Value: &r.To, Default: "", Optional: true,
			Doc: "Targets: CIDRs, addresses, ranges (`10.0.0.1-10.0.0.9`), names, `*.suffix` (the names below it), and `file:PATH`, a list of these, one a line, read again on SIGHUP.",
		},
		{Name: "ports", Value: &r.Ports, Default: "", Optional: true, Doc: "Ports of targets."},
		{Name: "commands", Value: &r.Commands, Default: "", Optional: true, Doc: "Of `connect`, `udp` and `bind`."},
	}
}

// BlocksPrivate is acl.block_private in force.
func (a *ACL) BlocksPrivate() bool { return a.BlockPrivate.Or(len(a.Rules) > 0) }

// BlocksPrivateAt is block_private of the listeners that have their own, by
// name.
func (c *Config) BlocksPrivateAt() map[string]bool {
	at := make(map[string]bool)
	for i := range c.Listeners {
		if l := &c.Listeners[i]; l.BlockPrivate != Auto && l.BlockPrivate != "" {
			at[l.Called()] = l.BlockPrivate == True
		}
	}
	return at
}

// RuleOptions are the rules for aclsvc.Compile.
func (a *ACL) RuleOptions() []aclsvc.Rule {
	out := make([]aclsvc.Rule, len(a.Rules))
	for i := range a.Rules {
		out[i] = a.Rules[i].option()
	}
	return out
}

// option keeps what is nil nil: a list that is not there does not restrict.
func (r *Rule) option() aclsvc.Rule {
	return aclsvc.Rule{
		Action: r.Action, Users: r.Users, Groups: r.Groups, From: Prefixes(r.From), Listeners: r.Listeners, To: r.To,
		Ports: portRanges(r.Ports), Commands: r.Commands, Where: r.Where,
	}
}

// finishACL tries each rule by itself, the lists in files included.
func (c *Config) finishACL(f *finisher) {
	for i := range c.ACL.Rules {
		r, at := &c.ACL.Rules[i], fmt.Sprintf("acl.rule[%d]", i)
		r.Where = c.originOf(at).fileLine()
		if !c.isSet(at + ".action") {
			if !f.within(at) {
				f.add(c.originOf(at), at+".action", `is missing: write "allow" or "deny"`)
			}
			continue
		}
		c.dropUnset(r, at)
		alone := r.option()
		alone.Where = ""
		_, err := aclsvc.Compile(aclsvc.Options{Rules: []aclsvc.Rule{alone}})
		elements, each := errors.AsType[aclsvc.ElementErrors](err)
		for _, e := range elements {
			key := fmt.Sprintf("%s.%s[%d]", at, e.List, e.Index)
			f.add(c.originOf(key), key, "%v", e.Err)
		}
		if err != nil && !each {
			field, text, _ := strings.Cut(strings.TrimPrefix(err.Error(), "acl.rules[0]."), ": ")
			f.add(c.originOf(at+"."+field), at+"."+field, "%s", text)
		}
	}
}

// dropUnset tells the lists that were left out from those that are empty.
func (c *Config) dropUnset(r *Rule, at string) {
	for _, list := range []struct {
		key  string
		drop func()
	}{
		{"users", func() { r.Users = nil }},
		{"groups", func() { r.Groups = nil }},
		{"from", func() { r.From = nil }},
		{"listeners", func() { r.Listeners = nil }},
		{"to", func() { r.To = nil }},
		{"ports", func() { r.Ports = nil }},
		{"commands", func() { r.Commands = nil }},
	} {
		if !c.isSet(at + "." + list.key) {
			list.drop()
		}
	}
}
