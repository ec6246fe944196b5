package conn

import (
	"context"
	"errors"
	"net/netip"
	"sync"

	"cleversocks/aclsvc"
	"cleversocks/conn/dial"
	"cleversocks/conn/upstream"
	"cleversocks/conn/wire"
)

// A name without its final dot may stand for several: with "search
// corp.example" in resolv.conf, "wiki" is "wiki.corp.example" if there is one.
// Rules and forwarding rules judge the name that answers, and each one that is
// tried before a server hears of it, or a client would get past them by leaving
// the end of a name out.

// JudgeAsked judges a name as the client asked for it, where a search list
// makes other names of it: a rule that names it denies it in any case, while
// what is denied by default may still be allowed by its full name.
func (p *Policy) JudgeAsked(q aclsvc.Query) error {
	if d, named := p.ACL.DecideNamed(&q); named && !d.Allow {
		return &deniedError{rule: d.Rule, where: d.Where}
	}
	return nil
}

// JudgeSearched judges a name that a search list made of the one asked for, by
// the rules, as far as they are certain without an address, and by the
// forwarding rules.
func (p *Policy) JudgeSearched(q aclsvc.Query, name string) error {
	if err := p.judgeSearchedByRules(q, name); err != nil {
		return err
	}
	if q.Name != name {
		q.Name, q.Asked = name, q.Name
	}
	dest := wire.Addr{Name: name, Port: q.Port, Absolute: true}
	if route := p.Routes.Route(routeQuery(dest, &q)); route.Action == upstream.Reject {
		return &deniedError{rule: route.Rule}
	}
	return nil
}

func (p *Policy) judgeSearchedByRules(q aclsvc.Query, name string) error {
	if q.Name != name {
		q.Name, q.Asked = name, q.Name
	}
	if d, certain := p.ACL.DecideName(&q); certain && !d.Allow {
		return &deniedError{rule: d.Rule, where: d.Where}
	}
	return nil
}

// route is where a session's request goes. A name that is resolved here is
// first made complete. What an upstream resolves is passed on as it was asked
// for: nobody here knows which search list applies there.
func (j *judge) route(ctx context.Context, s *session) (upstream.Route, error) {
	return j.routeBy(s, true, func(dest wire.Addr, egress dial.Egress, judge func(string) error) (wire.Addr, error) {
		return s.policy.Dialer.Complete(ctx, dest, egress, judge)
	})
}

// routeNow is route for whoever must not wait. The error is dial.ErrWaits where that
// takes more than what is remembered.
func (j *judge) routeNow(s *session) (upstream.Route, error) {
	return j.routeBy(s, false, s.policy.Dialer.CompleteNow)
}

// completer is a method of the dialer's that completes names.
type completer func(dest wire.Addr, egress dial.Egress, judge func(name string) error) (wire.Addr, error)

func (j *judge) routeBy(s *session, waits bool, by completer) (upstream.Route, error) {
	asked := s.request.Dest
	route := s.routeOf(asked)
	if s.policy.Dialer.Searches(asked) && resolvedHere(route) && route.Dest.Host() == asked.Host() {
		full, err := j.complete(s, asked, by, s.policy.JudgeSearched)
		if err != nil {
			return route, err
		}
		if full != asked {
			s.named = &full
			route = s.routeOf(full)
		}
	}
	switch {
	case route.Action == upstream.Reject:
		return route, &deniedError{rule: route.Rule}
	case route.Dest == asked, s.named != nil && route.Dest == *s.named:
		return route, nil
	case !waits && route.Dest.IsName():
		return route, dial.ErrWaits // what is judged below must not be counted twice
	}
	if err := j.rewritten(s, route.Dest); err != nil || !resolvedHere(route) {
		return route, err
	}
	// Forwarding rules are for what clients ask, not for what one of them wrote.
	var err error
	route.Dest, err = j.complete(s, route.Dest, by, s.policy.judgeSearchedByRules)
	return route, err
}

func (s *session) routeOf(dest wire.Addr) upstream.Route {
	return s.policy.Routes.Route(s.routeQuery(dest))
}

// ResolvedElsewhere reports whether a request's name goes to an upstream that
// looks it up.
func (p *Policy) ResolvedElsewhere(q aclsvc.Query, dest wire.Addr) bool {
	return q.Command == wire.CommandConnect && !resolvedHere(p.Routes.Route(routeQuery(dest, &q)))
}

// resolvedHere reports whether names that go this way are looked up by us.
func resolvedHere(route upstream.Route) bool {
	return route.Action == upstream.Direct || route.ResolvesLocally()
}

// complete is a destination with the name that answers for it.
func (j *judge) complete(s *session, dest wire.Addr, by completer, allows func(aclsvc.Query, string) error) (wire.Addr, error) {
	if !s.policy.Dialer.Searches(dest) {
		return dest, nil
	}
	q := s.queryFor(dest)
	full, err := by(dest, s.egress(), func(name string) error { return allows(q, name) })
	if denied, ok := errors.AsType[*deniedError](err); ok {
		j.count(s, s.policy, aclsvc.Decision{Rule: denied.rule, Where: denied.where}, dest, netip.Addr{})
	}
	return full, err
}

// maxAsked bounds what a session remembers of the names that it asked for.
const maxAsked = 256

// askedNames are the names as a client asked for them, by the complete ones, for
// what judges these later. The zero value is ready.
type askedNames struct {
	mu sync.Mutex
	by map[string]string
}

func (a *askedNames) note(full, asked string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.by == nil || len(a.by) >= maxAsked {
		a.by = make(map[string]string)
	}
	a.by[full] = asked
}

func (a *askedNames) of(full string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.by[full]
}
