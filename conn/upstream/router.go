package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"cleversocks/conn/dial"
	"cleversocks/conn/wire"
	"cleversocks/listener/proxyproto"
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
	// Groups are the user's, Source the client's address, unmapped, and
	// Listener the name of the one that it came to.
	Groups   []string
	Source   netip.Addr
	Listener string
	// Asked is the name as the client asked for it, where a search list made
	// Dest's of it. If it is a single label, rules that name it match as well.
	Asked string
	// Sniffed is the name that a client said first whose Dest is an address; "":
	// none. Rules match it as well, and where they lead the address is asked for.
	Sniffed string
	// Session is what chooses a pool's member, the same one each time; "": the
	// pool's strategy does.
	Session string
}

// Route is where one request goes. The zero Route is Direct to nowhere.
type Route struct {
	Action Action
	Dest   wire.Addr // the query's, with what the rule rewrites
	Rule   string    // "forward[2]"; empty when none matched
	// Egress is how the rule wants a Direct connection to leave; what is zero
	// of it is left open.
	Egress dial.Egress
	// sendProxy is the header that a Direct connection's destination gets.
	sendProxy proxyproto.Send
	by        asker
	pool      *Pool
}

// Origin is whose connection is passed on, for PROXY headers. The zero one is
// nobody's that has an address: our own, or that of a client on a unix socket.
type Origin struct {
	Client netip.AddrPort
	Local  netip.AddrPort // where the client connected to
}

// asker is on whose behalf a route is taken.
type asker struct {
	session string // the query's
	from    Origin
}

// For is the route as one client takes it.
func (r Route) For(from Origin) Route {
	r.by.from = from
	return r
}

// Announces reports whether Header is anything: who the client is need not be known
// for a route where it is not.
func (r Route) Announces() bool { return r.sendProxy.On() }

// Header is what the destination of a Direct connection gets ahead of what the
// client sends, by its rule; nil: nothing.
func (r Route) Header() ([]byte, error) { return r.sendProxy.Header(r.by.from.Client, r.by.from.Local) }

// Compile checks everything, reads the members' files and makes the pools.
// Errors are *ConfigError, joined. The new pools do nothing yet: run each as
// a service. A pool of the previous router whose definition is the same is
// taken over as it is, at work.
func Compile(o Options) (*Router, error) {
	o.setDefaults()
	if len(o.Upstreams) > 0 && (o.Dial == nil || o.Metrics == nil || o.Logger == nil) {
		return nil, errors.New("upstream: Dial, Metrics and Logger are required")
	}
	plans, problems := planAll(o.Upstreams)
	r := &Router{}
	pools := known(o.Upstreams)
	for _, plan := range plans {
		p := o.Previous.unchanged(&o, plan)
		if p == nil {
			p = newPool(&o, plan)
		}
		pools[p.name] = p
		r.pools = append(r.pools, p)
	}
	rules, more := compileRules(o.Forward, pools)
	r.rules = rules
	if problems = append(problems, more...); len(problems) > 0 {
		if o.Metrics != nil { // what was made for it is of no use
			r.Retired(o.Previous, o.Metrics.Forget)
		}
		errs := make([]error, len(problems))
		for i, problem := range problems {
			errs[i] = problem
		}
		return nil, errors.Join(errs...)
	}
	return r, nil
}

// Check is what Compile would complain about. It reads the members' files.
func Check(upstreams []Upstream, forward []Rule) []*ConfigError {
	_, problems := planAll(upstreams)
	_, more := compileRules(forward, known(upstreams))
	return append(problems, more...)
}

// known holds the names of upstreams, without pools: a rule may lead to one
// even if something else is wrong with it.
func known(upstreams []Upstream) map[string]*Pool {
	pools := make(map[string]*Pool, len(upstreams))
	for _, u := range upstreams {
		if u.Name != "" {
			pools[u.Name] = nil
		}
	}
	return pools
}

func compileRules(forward []Rule, pools map[string]*Pool) (rules []*rule, problems []*ConfigError) {
	for i, f := range forward {
		c, err := compileRule(i, f, pools)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		rules = append(rules, c)
	}
	return rules, problems
}

// Pools is the services to run while the router is in force.
func (r *Router) Pools() []*Pool { return r.pools }

// Route is where the first matching rule sends a request. It neither waits
// nor resolves. A nil Router sends everything Direct.
func (r *Router) Route(q Query) Route {
	if r != nil {
		for _, c := range r.rules {
			if c.matches(q) {
				return Route{
					Action: c.action, Dest: c.apply(q.Dest), Rule: c.label, Egress: c.egress, sendProxy: c.sendProxy,
					pool: c.pool, by: asker{session: q.Session},
				}
			}
		}
	}
	return Route{Dest: q.Dest}
}

// RouteDatagrams is where the first rule sends a client's datagrams. Without a
// destination that is the same for all of them, rules that name destinations or
// ports are passed over. Nothing is rewritten.
func (r *Router) RouteDatagrams(q Query) Route {
	if r != nil {
		for _, c := range r.rules {
			if !q.Dest.IsZero() && c.matches(q) || c.any && len(c.ports) == 0 && c.clients.match(&q) {
				return Route{Action: c.action, Rule: c.label, Egress: c.egress, pool: c.pool, by: asker{session: q.Session}}
			}
		}
	}
	return Route{}
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
	return r.pool.connect(ctx, r.by, dests)
}
