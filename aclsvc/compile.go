package aclsvc

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/gaissmai/bart"

	"cleversocks/conn/netaddr"
	"cleversocks/conn/wire"
)

// Rule is one [[acl.rule]]. A nil list does not restrict; a list that is
// there and empty is an error, since nobody can tell what it should mean.
// Users and Groups say together who: one of either is enough.
type Rule struct {
	Action string // "allow" or "deny"
	Users  []string
	Groups []string
	From   []netip.Prefix // of clients
	// Listeners are the names of those that clients came to.
	Listeners []string
	To        []string // CIDRs, addresses, ranges a-b, names, *.suffix, file:PATH
	Ports     []netaddr.PortRange
	Commands  []string // connect, udp, bind
	Where     string   // "file:line"
}

// Options is everything a Policy is made of.
type Options struct {
	Rules        []Rule
	DefaultAllow bool // when no rule matches
	BlockPrivate bool // acl.block_private in force
	// BlockPrivateAt has another answer for some listeners, by name.
	BlockPrivateAt map[string]bool
	ReportOnly     bool // allow what the rules deny, and say so in the Decision
	NAT64          []netip.Prefix
	// Listeners are the proxy's own, admin included: never a destination,
	// whatever the rules say and in report-only mode too.
	Listeners []netip.AddrPort
	// Hosts are addresses that reach this host besides those that it has:
	// ranges to leave from, which are routed here. At a listener's port they
	// are the listener, if that is on a wildcard address.
	Hosts []netip.Prefix
	// Advertised are the addresses that clients are told. A NAT brings what is
	// sent there back to us: at any listener's port they are the listener.
	Advertised []netip.Addr
	Locals     *Locals // the addresses that the host has; nil: loopback only
	// OnPanic is told of a panic in a decision, which denies. May be nil.
	OnPanic func(recovered any, q Query)
	// Open reads a "file:" list; nil: from the file system.
	Open func(path string) (io.ReadCloser, error)
}

// Policy is compiled rules. It never changes, so any number of goroutines may
// ask it; the next configuration is a new Policy.
type Policy struct {
	rules      []rule
	index      index
	fallback   Decision
	block      *specialTable
	blocks     bool // private addresses are denied, but for what blocksAt says
	blocksAt   map[string]bool
	reportOnly bool
	embeddings []embedding
	listeners  []netip.AddrPort
	hosts      bart.Lite
	advertised []netip.Addr
	locals     *Locals
	onPanic    func(any, Query)
}

// rule is what is left of a Rule once its destinations are in the index.
type rule struct {
	allow    bool
	everyone bool // neither users nor groups restrict
	anywhere bool // no destination restricts
	users    map[string]struct{}
	groups   map[string]struct{}
	from     *bart.Lite
	doors    []string // listeners; none: all
	ports    []netaddr.PortRange
	commands uint8 // bit per wire.Command; 0: all
	name     string
	where    string
}

// Compile reads all rules, and the files they name, into a Policy. The error
// names the rule, where it stands, and the list's file and line.
func Compile(o Options) (*Policy, error) {
	wrapped, err := embeddings(o.NAT64)
	if err != nil {
		return nil, err
	}
	p := &Policy{
		rules:      make([]rule, len(o.Rules)),
		fallback:   Decision{Allow: o.DefaultAllow, Rule: ByDefault},
		reportOnly: o.ReportOnly,
		block:      newSpecialTable(),
		blocks:     o.BlockPrivate,
		blocksAt:   o.BlockPrivateAt,
		embeddings: wrapped,
		locals:     o.Locals,
		onPanic:    o.OnPanic,
	}
	for _, l := range o.Listeners {
		p.listeners = append(p.listeners, netaddr.PlainPort(l))
	}
	for _, h := range o.Hosts {
		p.hosts.Insert(h.Masked())
	}
	for _, a := range o.Advertised {
		p.advertised = append(p.advertised, netaddr.Plain(a))
	}
	b := newBuilder(&p.index, o.Open)
	for i := range o.Rules {
		if err := p.compileRule(i, &o.Rules[i], b); err != nil {
			if where := o.Rules[i].Where; where != "" {
				return nil, fmt.Errorf("%s: acl.rules[%d].%w", where, i, err)
			}
			return nil, fmt.Errorf("acl.rules[%d].%w", i, err)
		}
	}
	b.finish()
	return p, nil
}

func (p *Policy) compileRule(i int, in *Rule, b *builder) error {
	r := &p.rules[i]
	r.name = fmt.Sprintf("acl.rules[%d]", i)
	r.where = in.Where
	switch in.Action {
	case "allow":
		r.allow = true
	case "deny":
	default:
		return fmt.Errorf("action: %q: allow or deny", clip(in.Action))
	}
	for key, list := range map[string][]string{
		"users": in.Users, "groups": in.Groups, "listeners": in.Listeners, "to": in.To, "commands": in.Commands,
	} {
		if isEmpty(list) {
			return emptyList(key)
		}
		if slices.Contains(list, "") {
			return fmt.Errorf("%s: an empty entry", key)
		}
	}
	switch {
	case isEmpty(in.From):
		return emptyList("from")
	case isEmpty(in.Ports):
		return emptyList("ports")
	}
	r.everyone = len(in.Users) == 0 && len(in.Groups) == 0
	r.anywhere = len(in.To) == 0
	r.users, r.groups, r.doors = set(in.Users), set(in.Groups), in.Listeners
	if faults := slices.Concat(r.restrict(in), b.destinations(int32(i), r.allow, in.To)); faults != nil {
		return faults
	}
	return nil
}

// isEmpty reports whether a list is there and holds nothing.
func isEmpty[T any](list []T) bool { return list != nil && len(list) == 0 }

func emptyList(key string) error {
	return fmt.Errorf("%s: an empty list; leave the key out to match everything", key)
}

// ElementErrors is all that is wrong with the lists of a rule.
type ElementErrors []ElementError

// ElementError is what is wrong with one element.
type ElementError struct {
	List  string // "to"
	Index int    // from 0
	Err   error
}

func (e ElementError) Error() string { return fmt.Sprintf("%s[%d]: %v", e.List, e.Index, e.Err) }

// Error is all of them, in one line.
func (es ElementErrors) Error() string {
	all := make([]string, len(es))
	for i, e := range es {
		all[i] = e.Error()
	}
	return strings.Join(all, "; ")
}

// Unwrap is each of them.
func (es ElementErrors) Unwrap() []error {
	all := make([]error, len(es))
	for i, e := range es {
		all[i] = e.Err
	}
	return all
}

// restrict reads what limits a rule besides users and destinations.
func (r *rule) restrict(in *Rule) (wrong ElementErrors) {
	for _, p := range in.From {
		if r.from == nil {
			r.from = new(bart.Lite)
		}
		r.from.Insert(netaddr.UnmapPrefix(p))
	}
	r.ports = mergePorts(slices.Clone(in.Ports))
	for i, s := range in.Commands {
		c, err := parseCommand(s)
		if err != nil {
			wrong = append(wrong, ElementError{"commands", i, err})
			continue
		}
		r.commands |= 1 << c
	}
	return wrong
}

// mergePorts sorts and joins, so that there are never more than 32768.
func mergePorts(in []netaddr.PortRange) []netaddr.PortRange {
	slices.SortFunc(in, func(a, b netaddr.PortRange) int { return int(a.First) - int(b.First) })
	out := in[:0]
	for _, r := range in {
		if n := len(out); n > 0 && int(r.First) <= int(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}

// concerns reports whether everything but the destination matches.
func (r *rule) concerns(q *Query) bool {
	if len(r.ports) > 0 && !r.hasPort(q.Port) {
		return false
	}
	return r.concernsClient(q)
}

// concernsClient is concerns without the port.
func (r *rule) concernsClient(q *Query) bool {
	if r.commands != 0 && (q.Command > wire.CommandUDPAssociate || r.commands&(1<<q.Command) == 0) {
		return false
	}
	if len(r.doors) > 0 && !slices.Contains(r.doors, q.Listener) {
		return false
	}
	if r.from != nil && !r.from.Contains(q.Source) {
		return false
	}
	return r.everyone || r.hasSubject(q)
}

func (r *rule) hasPort(port uint16) bool {
	low, high := 0, len(r.ports)
	for low < high {
		mid := (low + high) / 2
		switch {
		case port < r.ports[mid].First:
			high = mid
		case port > r.ports[mid].Last:
			low = mid + 1
		default:
			return true
		}
	}
	return false
}

func (r *rule) hasSubject(q *Query) bool {
	if _, ok := r.users[q.Identity.User]; ok {
		return true
	}
	for _, g := range q.Identity.Groups {
		if _, ok := r.groups[g]; ok {
			return true
		}
	}
	return false
}

func set(list []string) map[string]struct{} {
	out := make(map[string]struct{}, len(list))
	for _, s := range list {
		out[s] = struct{}{}
	}
	return out
}

// isFile splits "file:PATH".
func isFile(s string) (path string, ok bool) { return strings.CutPrefix(s, "file:") }
