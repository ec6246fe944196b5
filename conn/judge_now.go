package conn

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"

	"cleversocks/aclsvc"
	"cleversocks/conn/wire"
)

// An association and a BIND last, and a reload may pass meanwhile: what they
// meet later is judged by the policy in force at the time.

// decideNow judges destinations of datagrams, and peers, by the rules in force
// at the time, and tells the watcher of what they refuse. An address that is not
// valid is one that an upstream will find.
func (j *judge) decideNow(s *session) func(wire.Addr, netip.Addr) aclsvc.Decision {
	tell := j.teller(s)
	return func(dest wire.Addr, addr netip.Addr) aclsvc.Decision {
		d := j.now(s, dest, addr)
		if !d.Allow {
			tell(&deniedError{rule: d.Rule, where: d.Where, addr: addr}, dest)
		}
		return d
	}
}

// now is one decision of decideNow, of which the watcher hears by the record of
// the session.
func (j *judge) now(s *session, dest wire.Addr, addr netip.Addr) aclsvc.Decision {
	policy := j.current.Load()
	q := s.queryNow(policy)
	q.Name, q.Port, q.Asked = dest.Name, dest.Port, s.askedFor(dest)
	d := policy.decide(&q, addr)
	j.count(s, policy, d, dest, addr)
	if rule := s.astray(policy, dest); rule != "" && d.Allow {
		return aclsvc.Decision{Rule: rule}
	}
	return d
}

// maxTold bounds what the watcher hears of one session: who sends to thousands of
// addresses must not fill the queue that the records of all take.
const maxTold = 64

// teller tells the watcher what is refused to a session that goes on. It may be
// called by several goroutines.
func (j *judge) teller(s *session) func(*deniedError, wire.Addr) {
	var told atomic.Int32
	return func(denied *deniedError, dest wire.Addr) {
		if told.Load() < maxTold && told.Add(1) <= maxTold {
			j.access.refusedNow(s, denied, dest)
		}
	}
}

// decide judges a destination by its address, or by its name alone when only
// an upstream will know the address.
func (p *Policy) decide(q *aclsvc.Query, addr netip.Addr) aclsvc.Decision {
	if addr.IsValid() {
		return p.ACL.Decide(q, addr)
	}
	d, _ := p.ACL.DecideName(q)
	return d
}

// resolveNow finds the addresses of a name, by the policy in force at the
// time; what the rules deny whatever it resolves to is not asked for.
func (j *judge) resolveNow(s *session) func(context.Context, wire.Addr) ([]netip.Addr, error) {
	refused := j.refusedNames(s)
	return func(ctx context.Context, dest wire.Addr) ([]netip.Addr, error) {
		policy := j.current.Load()
		q := s.queryNow(policy)
		q.Name, q.Port, q.Asked = dest.Name, dest.Port, s.askedFor(dest)
		if d, certain := policy.ACL.DecideName(&q); certain && !d.Allow {
			return nil, refused(policy, &deniedError{rule: d.Rule, where: d.Where}, dest)
		}
		if rule := s.astray(policy, dest); rule != "" {
			return nil, refused(policy, &deniedError{rule: rule}, dest) // not even a name server is to hear of it
		}
		return policy.Dialer.Resolve(ctx, dest.Name, s.egress())
	}
}

// completeNow is complete for the datagrams of a session, or the peer that a
// BIND waits for, by the policy in force at the time.
func (j *judge) completeNow(s *session) func(context.Context, wire.Addr) (wire.Addr, error) {
	refused := j.refusedNames(s)
	return func(ctx context.Context, dest wire.Addr) (wire.Addr, error) {
		policy := j.current.Load()
		if !policy.Dialer.Searches(dest) {
			return dest, nil
		}
		full, err := j.searchNow(ctx, s, policy, dest)
		if denied, ok := errors.AsType[*deniedError](err); ok {
			return full, refused(policy, denied, dest)
		}
		if err == nil && full.Name != dest.Name {
			s.asked.note(full.Name, dest.Name)
		}
		return full, err
	}
}

// searchNow goes through the search list.
func (j *judge) searchNow(ctx context.Context, s *session, policy *Policy, dest wire.Addr) (wire.Addr, error) {
	q := s.queryNow(policy)
	q.Name, q.Port = dest.Name, dest.Port
	if err := policy.JudgeAsked(q); err != nil {
		return wire.Addr{}, err
	}
	if rule := s.astray(policy, dest); rule != "" {
		return wire.Addr{}, &deniedError{rule: rule} // not even a name server is to hear of it
	}
	return policy.Dialer.Complete(ctx, dest, s.egress(), func(name string) error {
		if err := policy.JudgeSearched(q, name); err != nil {
			return err
		}
		if rule := s.astray(policy, wire.Addr{Name: name, Port: dest.Port, Absolute: true}); rule != "" {
			return &deniedError{rule: rule}
		}
		return nil
	})
}

// refusedNames counts what is refused by its name, before it has an address, and
// tells the watcher of it. A BIND ends with that, and its record tells.
func (j *judge) refusedNames(s *session) func(*Policy, *deniedError, wire.Addr) error {
	tell := j.teller(s)
	return func(policy *Policy, denied *deniedError, dest wire.Addr) error {
		j.count(s, policy, aclsvc.Decision{Rule: denied.rule, Where: denied.where}, dest, netip.Addr{})
		if s.request.Command != wire.CommandBind {
			tell(denied, dest)
		}
		return denied
	}
}
