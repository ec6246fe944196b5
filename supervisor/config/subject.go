package config

import (
	"fmt"
	"maps"
	"slices"

	"cleversocks/authsvc"
)

// subjects are the users and groups that there are, for rules that name them.
type subjects struct {
	users, groups map[string]bool
	// open: others may log in whom only their authenticator knows.
	open bool
}

// subjectsOf lists the names of the users that the settings know.
func (c *Config) subjectsOf(users *authsvc.Users) *subjects {
	s := &subjects{users: make(map[string]bool), groups: make(map[string]bool), open: c.HasForeignUsers()}
	users.Accounts(func(a *authsvc.Account) {
		s.users[a.Name] = true
		for _, g := range a.Groups {
			s.groups[g] = true
		}
	})
	return s
}

// HasForeignUsers reports whether somebody else says who the users are, so that
// a name that the settings do not know may be one. An authenticator of that
// kind is a line here.
func (c *Config) HasForeignUsers() bool {
	return c.isSet(keytabKey) || c.HasClientCA() || len(c.PeerUsers()) > 0
}

// UserNames are the names of the users that the settings know, sorted.
func (c *Config) UserNames() []string {
	if c.subjects == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(c.subjects.users))
}

// CheckSubjects is finishSubjects for users who come into force alone: with
// acl.strict, nobody whom a rule names may go.
func (c *Config) CheckSubjects(users *authsvc.Users) error {
	if !c.ACL.Strict {
		return nil
	}
	later := *c
	later.Warnings, later.subjects = nil, c.subjectsOf(users)
	var ps problems
	later.finishSubjects(&finisher{problems: &ps, cfg: &later})
	return ps.err()
}

// maxUnknown bounds the messages about names that are nobody's.
const maxUnknown = 20

// finishSubjects warns of rules for users and groups that do not exist, since a
// slip in a denial opens what it should close. With acl.strict it is an error, and
// of a listener at any rate: those are all in the settings, unless a flag has
// replaced them.
func (c *Config) finishSubjects(f *finisher) {
	if c.subjects == nil {
		return // not known, for what is wrong with them is said already
	}
	unknown := 0
	check := func(at, kind string, names []string, known map[string]bool) {
		for _, name := range names {
			if known[name] || c.subjects.open && kind != "listener" {
				continue
			}
			if unknown++; unknown > maxUnknown {
				continue
			}
			text := fmt.Sprintf("there is no %s %q%s", kind, clip(name), DidYouMean(name, slices.Sorted(maps.Keys(known))))
			origin := c.originOf(at)
			if c.ACL.Strict || kind == "listener" && !f.listensByFlag() {
				f.add(origin, at, "%s", text)
				continue
			}
			f.warn("%s", problem{origin: origin, key: at, text: text + "; the rule applies to nobody of that name (acl.strict makes this an error)"})
		}
	}
	doors := make(map[string]bool, len(c.Listeners))
	for i := range c.Listeners {
		doors[c.Listeners[i].Called()] = true
	}
	for i, r := range c.ACL.Rules {
		at := element("acl.rule", i)
		check(at+".listeners", "listener", r.Listeners, doors)
		check(at+".users", "user", r.Users, c.subjects.users)
		check(at+".groups", "group", r.Groups, c.subjects.groups)
	}
	for i, w := range c.Forwards {
		at := element("forward", i)
		check(at+".listeners", "listener", w.Listeners, doors)
		check(at+".users", "user", w.Users, c.subjects.users)
		check(at+".groups", "group", w.Groups, c.subjects.groups)
	}
	for i, l := range c.Listeners {
		at := element("listener", i)
		check(at+".users", "user", l.Users, c.subjects.users)
		check(at+".groups", "group", l.Groups, c.subjects.groups)
	}
	if more := unknown - maxUnknown; more > 0 {
		f.warn("%d more names in rules are nobody's", more)
	}
}
