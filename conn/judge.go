package conn

import (
	"log/slog"
	"net/netip"
	"sync/atomic"

	"cleversocks/aclsvc"
	"cleversocks/conn/upstream"
	"cleversocks/conn/wire"
	"cleversocks/metrics"
)

// judge is the decision step: it asks the rules, and the forwarding rules,
// whether a session's request may be served. It opens nothing and answers
// nobody; a refusal is a *deniedError.
type judge struct {
	log     *slog.Logger
	access  *AccessLog
	current *atomic.Pointer[Policy] // for what is judged later than the request
}

// name refuses before DNS is asked what no address could make right.
func (j *judge) name(s *session) error { return j.nameOf(s, s.request.Dest) }

// nameOf is name for another destination than the one that was asked for.
func (j *judge) nameOf(s *session, dest wire.Addr) error {
	q := s.queryFor(dest)
	decision, certain := s.policy.ACL.DecideName(&q)
	if certain && s.policy.Dialer.Searches(dest) {
		// The names that it stands for are judged as they are tried (see route).
		decision, certain = s.policy.ACL.DecideNamed(&q)
	}
	if !certain {
		return nil
	}
	return j.verdict(s, decision, netip.Addr{})
}

// rewritten judges a request that a rule rewrites: what was asked for by what is
// known of it, and then what is asked for instead.
func (j *judge) rewritten(s *session, dest wire.Addr) error {
	asked := s.request.Dest
	if s.named != nil {
		asked = *s.named
	}
	if err := j.known(s, asked); err != nil {
		return err
	}
	return j.nameOf(s, dest)
}

// known is the last word about a destination that nobody resolves here.
func (j *judge) known(s *session, dest wire.Addr) error {
	if !dest.IsName() {
		return j.addresses(s, dest)(dest.IP)
	}
	q := s.queryFor(dest)
	decision, _ := s.policy.ACL.DecideName(&q)
	return j.verdict(s, decision, netip.Addr{})
}

// addresses is the decision about a destination's resolved addresses, as an
// error for the dialer: nil lets it be dialed.
func (j *judge) addresses(s *session, dest wire.Addr) func(netip.Addr) error {
	q := s.queryFor(dest)
	return func(addr netip.Addr) error { return j.verdict(s, s.policy.ACL.Decide(&q, addr), addr) }
}

// command refuses a UDP ASSOCIATE or BIND that the rules, or the forwarding
// rules, deny wherever it would go, before anything is opened for it.
func (j *judge) command(s *session) error {
	q := s.query()
	if d := s.policy.ACL.DecideUnknown(&q); !d.Allow {
		return j.verdict(s, d, netip.Addr{})
	}
	if route := s.policy.Routes.RouteDatagrams(s.routeQuery(s.datagramsTo())); route.Action == upstream.Reject {
		return &deniedError{rule: route.Rule}
	}
	return nil
}

// lapsed refuses a request of a user who may not use the proxy now, and was let
// in when that was otherwise: by an earlier request of this connection, or by
// TLS at its begin.
func (j *judge) lapsed(s *session) error {
	if refusal := j.current.Load().Auth.Lapsed(s.identity); refusal != nil {
		return &deniedError{rule: string(refusal.Reason)}
	}
	return nil
}

// verdict counts a decision, notes its rule, and turns a refusal into an error.
// addr is not valid when a name was judged.
func (j *judge) verdict(s *session, d aclsvc.Decision, addr netip.Addr) error {
	s.rule = d.Rule
	j.count(s, s.policy, d, s.request.Dest, addr)
	if d.Allow {
		return nil
	}
	return &deniedError{rule: d.Rule, where: d.Where, addr: addr}
}

// count counts what the rules of a policy said of a destination, and logs what
// they would have denied. Unlike verdict it leaves the session alone: an
// association asks from several goroutines.
func (j *judge) count(s *session, p *Policy, d aclsvc.Decision, dest wire.Addr, addr netip.Addr) {
	action := metrics.ActionAllow
	switch {
	case d.Reported:
		action = metrics.ActionReport
		j.log.LogAttrs(s.ctx, slog.LevelInfo, "would be denied",
			slog.String("id", s.ID()), slog.String("client", s.caller()), slog.String("user", s.identity.User),
			slog.String("command", s.request.Command.String()), slog.String("target", dest.String()),
			slog.String("address", addr.String()), slog.String("rule", d.Rule), slog.String("where", d.Where))
		j.access.reported(s, d, dest, addr)
	case !d.Allow:
		action = metrics.ActionDeny
	}
	if count := p.Decisions.Of(action, d.Rule); count != nil {
		count.Inc()
	}
}

// noteRule notes what allowed the address reached, once several of a
// destination's were judged.
func (s *session) noteRule(dest wire.Addr) {
	if dest.IsName() {
		q := s.queryFor(dest)
		s.rule = s.policy.ACL.Decide(&q, s.hostIP.Addr()).Rule
	}
}
