package upstream

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// plan is one upstream's definition, complete: files are read, URLs parsed.
type plan struct {
	upstream Upstream // with defaults; its lists are of no interest any more
	chains   []chain  // one for each member
	labels   []string // theirs, without credentials, unique
}

// planAll plans every upstream that can be; the others are problems.
func planAll(upstreams []Upstream) (plans []*plan, problems []*ConfigError) {
	names := make(map[string]bool, len(upstreams))
	for i, u := range upstreams {
		path := fmt.Sprintf("upstream[%d]", i)
		if u.Name == "" || u.Name == toDirect || u.Name == toReject || names[u.Name] {
			problems = append(problems, &ConfigError{path + ".name", fmt.Errorf("%q is empty, reserved or taken", u.Name)})
			continue
		}
		names[u.Name] = true
		p, problem := newPlan(path, u)
		if problem != nil {
			problems = append(problems, problem)
			continue
		}
		plans = append(plans, p)
	}
	return plans, problems
}

func newPlan(path string, u Upstream) (*plan, *ConfigError) {
	u.setDefaults()
	if err := u.Strategy.check(); err != nil {
		return nil, &ConfigError{path + ".strategy", err}
	}
	if u.Warm.Size < 0 || u.Warm.Size > MaxWarm {
		return nil, &ConfigError{path + ".pool.warm", fmt.Errorf("%d: want 0 to %d", u.Warm.Size, MaxWarm)}
	}
	if u.SendProxy.On() && u.Warm.Size > 0 {
		return nil, &ConfigError{path + ".pool.warm", errors.New("excludes send_proxy: a connection that is kept ready has no client yet whom the header could name")}
	}
	p := &plan{upstream: u}
	var problem *ConfigError
	switch {
	case (len(u.Via) > 0) == (len(u.Members) > 0):
		return nil, &ConfigError{path + ".via", errors.New("exactly one of via and members is needed")}
	case len(u.Via) > 0:
		problem = p.chain(path+".via", u.Via)
	default:
		problem = p.pool(path+".members", u.Members)
	}
	if problem != nil {
		return nil, problem
	}
	p.label()
	return p, nil
}

// chain makes the one way of an upstream with via.
func (p *plan) chain(path string, via []string) *ConfigError {
	urls, problem := expand(path, via)
	if problem != nil {
		return problem
	}
	if len(urls) == 0 || len(urls) > maxHops {
		return &ConfigError{path, fmt.Errorf("%d hops: want 1 to %d", len(urls), maxHops)}
	}
	c, problem := parseChain(urls)
	if problem != nil {
		return problem
	}
	p.chains = []chain{c}
	return p.resolves(path, c)
}

// pool makes a way for each member.
func (p *plan) pool(path string, members []string) *ConfigError {
	urls, problem := expand(path, members)
	if problem != nil {
		return problem
	}
	if len(urls) == 0 || len(urls) > maxMembers {
		return &ConfigError{path, fmt.Errorf("%d of them: want 1 to %d", len(urls), maxMembers)}
	}
	for _, u := range urls {
		c, problem := parseChain([]source{u})
		if problem == nil {
			problem = p.resolves(u.path, c)
		}
		if problem != nil {
			return problem
		}
		p.chains = append(p.chains, c)
	}
	return nil
}

// resolves refuses what nobody would resolve names for.
func (p *plan) resolves(path string, c chain) *ConfigError {
	if c[len(c)-1].proto == protoSOCKS4 && !p.upstream.ResolveLocally {
		return &ConfigError{path, errors.New(`socks4 resolves no names: use socks4a, or resolve = "local"`)}
	}
	return nil
}

// label names the members. One proxy under several users is several members:
// they are numbered, for the label has no user in it.
func (p *plan) label() {
	used := make(map[string]int)
	for _, c := range p.chains {
		label := c.String()
		if used[label]++; used[label] > 1 {
			label = fmt.Sprintf("%s #%d", label, used[label])
		}
		p.labels = append(p.labels, label)
	}
}

// same reports whether two plans make the same pool, credentials included.
func (p *plan) same(q *plan) bool {
	a, b := p.upstream, q.upstream
	return a.Name == b.Name && a.ResolveLocally == b.ResolveLocally && a.Strategy == b.Strategy &&
		a.Health == b.Health && a.Warm == b.Warm && a.SendProxy == b.SendProxy && (len(a.Via) > 0) == (len(b.Via) > 0) &&
		slices.EqualFunc(p.chains, q.chains, chain.same)
}

// newPool makes the pool of a plan. What the previous router knows of members
// that stay is kept.
func newPool(o *Options, plan *plan) *Pool {
	u := plan.upstream
	p := &Pool{name: u.Name, plan: plan, rewarm: o.Rewarm, timeout: o.ConnectTimeout, local: u.ResolveLocally, strategy: u.Strategy}
	open := (&connector{dial: o.Dial, resolve: o.Resolve, tls: o.TLS}).open
	for i, c := range plan.chains {
		m := &member{
			label: plan.labels[i], hops: c, health: u.Health, sendProxy: u.SendProxy, timeout: share(o.ConnectTimeout, len(plan.chains)), open: open,
			log:     o.Logger.With(slog.String("upstream", u.Name)),
			metrics: o.Metrics.Member(u.Name, plan.labels[i]),
			kick:    make(chan struct{}, 1),
		}
		m.shelf = newShelf(u.Warm, &m.metrics.Warm)
		if m.state = o.Previous.stateOf(u.Name, m.label, c); m.state == nil {
			m.state = &state{up: true} // until shown otherwise
			m.metrics.Up.Store(1)
		}
		p.members = append(p.members, m)
	}
	p.supervise()
	return p
}

// share is how much of the whole time a member may take for its handshake, so
// that a silent one leaves time for the next.
func share(whole time.Duration, members int) time.Duration {
	return whole / time.Duration(min(members, maxTries))
}

// unchanged is the pool of a plan that is at work already, or nil.
func (r *Router) unchanged(o *Options, p *plan) *Pool {
	if r == nil {
		return nil
	}
	for _, pool := range r.pools {
		if pool.plan.same(p) && pool.rewarm == o.Rewarm && pool.timeout == o.ConnectTimeout {
			return pool
		}
	}
	return nil
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
	if r == nil {
		return false
	}
	for _, p := range r.pools {
		for _, m := range p.members {
			if p.name == pool && m.label == label {
				return true
			}
		}
	}
	return false
}
