package conn

import (
	"context"
	"net/netip"

	"cleversocks/aclsvc"
	"cleversocks/conn/wire"
)

// An association and a BIND last, and a reload may pass meanwhile: what they
// meet later is judged by the policy in force at the time.

// decideNow judges destinations of datagrams, and peers, by the rules in force
// at the time. An address that is not valid is one that an upstream will find.
func (j *judge) decideNow(s *session) func(wire.Addr, netip.Addr) aclsvc.Decision {
	return func(dest wire.Addr, addr netip.Addr) aclsvc.Decision {
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
	return func(ctx context.Context, dest wire.Addr) ([]netip.Addr, error) {
		policy := j.current.Load()
		q := s.queryNow(policy)
		q.Name, q.Port, q.Asked = dest.Name, dest.Port, s.askedFor(dest)
		if d, certain := policy.ACL.DecideName(&q); certain && !d.Allow {
			return nil, &deniedError{rule: d.Rule, where: d.Where}
		}
		if rule := s.astray(policy, dest); rule != "" {
			return nil, &deniedError{rule: rule} // not even a name server is to hear of it
		}
		return policy.Dialer.Resolve(ctx, dest.Name, s.egress())
	}
}

// completeNow is complete for the datagrams of a session, or the peer that a
// BIND waits for, by the policy in force at the time.
func (j *judge) completeNow(s *session) func(context.Context, wire.Addr) (wire.Addr, error) {
	return func(ctx context.Context, dest wire.Addr) (wire.Addr, error) {
		policy := j.current.Load()
		if !policy.Dialer.Searches(dest) {
			return dest, nil
		}
		q := s.queryNow(policy)
		q.Name, q.Port = dest.Name, dest.Port
		if err := policy.JudgeAsked(q); err != nil {
			return wire.Addr{}, err
		}
		if rule := s.astray(policy, dest); rule != "" {
			return wire.Addr{}, &deniedError{rule: rule} // not even a name server is to hear of it
		}
		full, err := policy.Dialer.Complete(ctx, dest, s.egress(), func(name string) error {
			if err := policy.JudgeSearched(q, name); err != nil {
				return err
			}
			if rule := s.astray(policy, wire.Addr{Name: name, Port: dest.Port, Absolute: true}); rule != "" {
				return &deniedError{rule: rule}
			}
			return nil
		})
		if err == nil && full.Name != dest.Name {
			s.asked.note(full.Name, dest.Name)
		}
		return full, err
	}
}
