package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"cleversocks/conn/wire"
)

// Action is what a rule wants done.
type Action uint8

// The actions. Without a matching rule it is Direct.
const (
	Direct Action = iota
	Reject
	Via
)

// Router is the compiled rules and pools. It never changes.
type Router struct {
	rules []*rule
	pools []*Pool
}

// Query is what rules look at.
type Query struct {
	Dest wire.Addr
	User string // of the identity; empty when it names nobody
}

// Route is where one request goes. The zero Route is Direct to nowhere.
type Route struct {
	Action Action
	Dest   wire.Addr // the query's, with what the rule rewrites
	Rule   string    // "forward[2]"; empty when none matched
	pool   *Pool
}

// Compile checks everything, reads the members' files and makes the pools.
// Errors name the field. The pools do nothing yet: run each as a service.
func Compile(o Options) (*Router, error) {
	o.setDefaults()
	if len(o.Upstreams) > 0 && (o.Dial == nil || o.Metrics == nil || o.Logger == nil) {
		return nil, errors.New("upstream: Dial, Metrics and Logger are required")
	}
	r := &Router{}
	pools := make(map[string]*Pool, len(o.Upstreams))
	for i, u := range o.Upstreams {
		if u.Name == "" || u.Name == toDirect || u.Name == toReject || pools[u.Name] != nil {
			return nil, fmt.Errorf("upstream[%d].name: %q is empty, reserved or taken", i, u.Name)
		}
		u.setDefaults()
		p, err := newPool(&o, u)
		if err != nil {
			return nil, fmt.Errorf("upstream[%d].%w", i, err)
		}
		pools[u.Name] = p
		r.pools = append(r.pools, p)
	}
	for i, f := range o.Forward {
		c, err := compileRule(i, f, pools)
		if err != nil {
			return nil, err
		}
		r.rules = append(r.rules, c)
	}
	return r, nil
}

func newPool(o *Options, u Upstream) (*Pool, error) {
	if err := u.Strategy.check(); err != nil {
		return nil, err
	}
	if u.Warm.Size < 0 || u.Warm.Size > MaxWarm {
		return nil, fmt.Errorf("pool.warm: %d: want 0 to %d", u.Warm.Size, MaxWarm)
	}
	chains, err := u.chains()
	if err != nil {
		return nil, err
	}
	p := &Pool{name: u.Name, local: u.ResolveLocally, strategy: u.Strategy}
	open := (&connector{dial: o.Dial, resolve: o.Resolve, tls: o.TLS}).open
	used := make(map[string]int)
	for _, c := range chains {
		// One proxy under several users is several members: number them, for
		// the label has no user in it.
		label := c.String()
		if used[label]++; used[label] > 1 {
			label = fmt.Sprintf("%s #%d", label, used[label])
		}
		m := &member{
			label: label, hops: c, health: u.Health, timeout: o.ConnectTimeout, open: open,
			log:     o.Logger.With(slog.String("upstream", u.Name)),
			metrics: o.Metrics.Member(u.Name, label),
			kick:    make(chan struct{}, 1),
		}
		m.shelf = newShelf(u.Warm, &m.metrics.Warm)
		if m.state = o.Previous.stateOf(u.Name, label, c); m.state == nil {
			m.state = &state{up: true} // until shown otherwise
			m.metrics.Up.Store(1)
		}
		p.members = append(p.members, m)
	}
	return p, nil
}

// chains is the upstream's ways: one chain, or a hop per member.
func (u *Upstream) chains() ([]chain, error) {
	if (len(u.Via) > 0) == (len(u.Members) > 0) {
		return nil, errors.New("via: exactly one of via and members is needed")
	}
	var out []chain
	field := "via"
	if len(u.Via) > 0 {
		c, err := parseChain(u.Via)
		if err != nil {
			return nil, fmt.Errorf("via%w", err)
		}
		out = append(out, c)
	} else {
		urls, err := expandMembers(u.Members)
		if err != nil {
			return nil, err
		}
		if len(urls) == 0 || len(urls) > maxMembers {
			return nil, fmt.Errorf("members: %d of them: want 1 to %d", len(urls), maxMembers)
		}
		field = "members"
		for i, raw := range urls {
			h, err := ParseHop(raw)
			if err != nil {
				return nil, fmt.Errorf("members[%d]: %w", i, err)
			}
			out = append(out, chain{h})
		}
	}
	for _, c := range out {
		if c[len(c)-1].proto == protoSOCKS4 && !u.ResolveLocally {
			return nil, fmt.Errorf(`%s: socks4 resolves no names: use socks4a, or resolve = "local"`, field)
		}
	}
	return out, nil
}

// stateOf is what was known of a member that stays, or nil.
func (r *Router) stateOf(pool, label string, c chain) *state {
	if r == nil {
		return nil
	}
	for _, p := range r.pools {
		if p.name != pool {
			continue
		}
		for _, m := range p.members {
			if m.label == label && m.hops.same(c) {
				return m.state
			}
		}
	}
	return nil
}

// Retired calls forget for each member that next has no more, once next is in
// force: hand it metrics.Upstream's Forget.
func (r *Router) Retired(next *Router, forget func(upstream, member string)) {
	if r == nil {
		return
	}
	for _, p := range r.pools {
		for _, m := range p.members {
			if !next.has(p.name, m.label) {
				forget(p.name, m.label)
			}
		}
	}
}

func (r *Router) has(pool, label string) bool {
	for _, p := range r.pools {
		for _, m := range p.members {
			if p.name == pool && m.label == label {
				return true
			}
		}
	}
	return false
}

// Pools is the services to run while the router is in force.
func (r *Router) Pools() []*Pool { return r.pools }

// Route is where the first matching rule sends a request. It neither waits
// nor resolves. A nil Router sends everything Direct.
func (r *Router) Route(q Query) Route {
	if r != nil {
		for _, c := range r.rules {
			if c.matches(q) {
				return Route{Action: c.action, Dest: c.apply(q.Dest), Rule: c.label, pool: c.pool}
			}
		}
	}
	return Route{Dest: q.Dest}
}

// Upstream is the upstream's name; empty unless the action is Via.
func (r Route) Upstream() string {
	if r.pool == nil {
		return ""
	}
	return r.pool.name
}

// ResolvesLocally says that the destination's name is to be resolved before
// [Route.Dial], so that the addresses can be judged too.
func (r Route) ResolvesLocally() bool { return r.pool != nil && r.pool.local }

// Dial opens a tunnel through the upstream to the first of dests that
// answers: the destination by name, or its addresses in the order to try
// them. The connection is the caller's, with no deadline set and no byte of
// the tunnel read; without TLS on the way it is a bare *net.TCPConn. Errors
// are an *[Error]. Call [Info.Release] when the tunnel has ended.
func (r Route) Dial(ctx context.Context, dests ...wire.Addr) (net.Conn, Info, error) {
	if r.pool == nil || len(dests) == 0 {
		return nil, Info{}, &Error{Stage: "dial", Code: wire.ReplyGeneralFailure, Err: ErrNoAddress}
	}
	return r.pool.connect(ctx, dests)
}
