package learn

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Options say how rules are made of what was seen.
type Options struct {
	// MinCount leaves out what was seen less often.
	MinCount int
	// Anyone makes rules that do not say who: shorter, and wider.
	Anyone bool
	// Groups are the members of each group. Users who are all of a group, and
	// nobody else, become the group.
	Groups map[string][]string
}

// Rule is a rule to be reviewed. Users, Groups and From exclude each other; all
// empty: anybody.
type Rule struct {
	Users    []string     `json:"users,omitempty"`
	Groups   []string     `json:"groups,omitempty"`
	From     []netip.Addr `json:"from,omitempty"`
	To       []Dest       `json:"to"`
	Ports    []uint16     `json:"ports"`
	Commands []string     `json:"commands"`
	Count    int          `json:"count"`
	Last     time.Time    `json:"last"`
}

// Dest is a destination of a rule.
type Dest struct {
	Host  string `json:"host"`           // a name or an address
	Name  string `json:"name,omitempty"` // that was asked for, where the rule must have the address
	Count int    `json:"count"`
}

// who is a user, or the address of a client without one; the zero who is
// anybody.
type who struct {
	user   string
	client netip.Addr
}

// String is another text for each.
func (w who) String() string { return strconv.Quote(w.user) + w.client.String() }

func (w who) less(o who) int { return cmp.Or(cmp.Compare(w.user, o.user), w.client.Compare(o.client)) }

// pair is somebody and a destination, and what was wanted of it.
type pair struct {
	who  who
	dest string
}

// service is the ports and commands that somebody wanted of a destination, as
// one text that can be compared.
type service struct{ ports, commands string }

// block is people who wanted the same services of the same destinations.
type block struct {
	people []who
	dests  []string
	what   service
}

// Rules is the smallest list that this package knows of which allows exactly
// what was seen: no pair of a client and a destination, or port, that nobody
// asked for.
func (s *Seen) Rules(o Options) []Rule {
	// Rectangles of ports and commands for each pair come first: who asked for
	// port 53 by UDP and 443 by TCP gets two rules, not all four.
	asked := make(map[pair]map[string]map[uint16]bool)
	counts := make(map[pair]*count)
	for w, c := range s.wants {
		if c.times < o.MinCount {
			continue
		}
		p := pair{who{w.user, w.client}, w.dest}
		if o.Anyone {
			p.who = who{}
		}
		if asked[p] == nil {
			asked[p] = make(map[string]map[uint16]bool)
		}
		if asked[p][w.command] == nil {
			asked[p][w.command] = make(map[uint16]bool)
		}
		asked[p][w.command][w.port] = true
		if counts[p] == nil {
			counts[p] = &count{name: c.name}
		}
		counts[p].times += c.times
		_, counts[p].last = span(counts[p].first, counts[p].last, c.last)
	}
	wanted := make(map[service][]pair)
	for p, commands := range asked {
		byPorts := make(map[string][]string)
		for command, ports := range commands {
			text := fmt.Sprint(slices.Sorted(maps.Keys(ports)))
			byPorts[text] = append(byPorts[text], command)
		}
		for ports, commands := range byPorts {
			slices.Sort(commands)
			key := service{ports, strings.Join(commands, " ")}
			wanted[key] = append(wanted[key], p)
		}
	}
	var rules []Rule
	for what, pairs := range wanted {
		for _, b := range cover(what, pairs) {
			rules = append(rules, s.rule(b, counts, o)...)
		}
	}
	slices.SortFunc(rules, func(a, b Rule) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.To[0].Host, b.To[0].Host), slices.Compare(a.Users, b.Users), slices.Compare(a.Ports, b.Ports))
	})
	return rules
}

// cover is the pairs as blocks, each everybody in it with each destination in
// it: either people with the same destinations together, or destinations of the
// same people, whichever makes fewer. (The very fewest is a hard problem:
// biclique cover.)
func cover(what service, pairs []pair) []block {
	byPeople := group(pairs, func(p pair) who { return p.who }, func(p pair) string { return p.dest }, who.less, strings.Compare)
	byDests := group(pairs, func(p pair) string { return p.dest }, func(p pair) who { return p.who }, strings.Compare, who.less)
	var blocks []block
	if len(byPeople) <= len(byDests) {
		for _, g := range byPeople {
			blocks = append(blocks, block{g.keys, g.values, what})
		}
		return blocks
	}
	for _, g := range byDests {
		blocks = append(blocks, block{g.values, g.keys, what})
	}
	return blocks
}

// alike is keys that have the same values.
type alike[K, V any] struct {
	keys   []K
	values []V
}

// group puts keys together that have the same values.
func group[K, V comparable](pairs []pair, key func(pair) K, value func(pair) V, byKey func(a, b K) int, byValue func(a, b V) int) []*alike[K, V] {
	values := make(map[K][]V)
	for _, p := range pairs {
		values[key(p)] = append(values[key(p)], value(p))
	}
	groups := make(map[string]*alike[K, V])
	var list []*alike[K, V]
	for _, k := range slices.SortedFunc(maps.Keys(values), byKey) {
		slices.SortFunc(values[k], byValue)
		var all strings.Builder
		for _, v := range values[k] {
			all.WriteString(strconv.Quote(fmt.Sprint(v)))
		}
		text := all.String()
		if groups[text] == nil {
			groups[text] = &alike[K, V]{values: values[k]}
			list = append(list, groups[text])
		}
		groups[text].keys = append(groups[text].keys, k)
	}
	return list
}

// rule makes the rules of a block: one for users, one for clients without.
func (s *Seen) rule(b block, counts map[pair]*count, o Options) (rules []Rule) {
	var ports []uint16
	for field := range strings.FieldsSeq(strings.Trim(b.what.ports, "[]")) {
		var port uint16
		if _, err := fmt.Sscan(field, &port); err == nil { // it was printed above
			ports = append(ports, port)
		}
	}
	for _, named := range []bool{true, false} {
		r := Rule{Ports: ports, Commands: strings.Fields(b.what.commands)}
		people := slices.DeleteFunc(slices.Clone(b.people), func(w who) bool { return (w.user != "") != named })
		if len(people) == 0 {
			continue
		}
		for _, w := range people {
			switch {
			case named:
				r.Users = append(r.Users, w.user)
			case w.client.IsValid():
				r.From = append(r.From, w.client)
			}
		}
		for _, dest := range b.dests {
			d := Dest{Host: dest}
			for _, w := range people {
				c := counts[pair{w, dest}]
				d.Count += c.times
				d.Name = cmp.Or(d.Name, c.name)
				_, r.Last = span(r.Last, r.Last, c.last)
			}
			r.Count += d.Count
			r.To = append(r.To, d)
		}
		for _, name := range slices.Sorted(maps.Keys(o.Groups)) {
			members := slices.Sorted(slices.Values(o.Groups[name]))
			if named && slices.Equal(members, r.Users) {
				r.Users, r.Groups = nil, []string{name}
				break
			}
		}
		rules = append(rules, r)
	}
	return rules
}
