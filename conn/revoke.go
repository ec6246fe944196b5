package conn

import (
	"errors"
	"log/slog"

	"cleversocks/aclsvc"
	"cleversocks/authsvc"
	"cleversocks/conn/netaddr"
	"cleversocks/conn/relay"
	"cleversocks/conn/upstream"
	"cleversocks/conn/wire"
)

// revocable marks a session whose request was granted as one that reloads look
// at. A reload may have changed the policy while the request was carried out: it
// has either found the mark, or its policy is found here, and judges the session
// now.
func (g *Group) revocable(s *session) {
	if s.request.Command != wire.CommandUDPAssociate {
		s.relaying.Store(true) // all that others may read is there
	}
	s.waiting.Store(false) // behind that: in between it would be nobody's session
	g.watched(s)
}

// waits is revocable for a BIND whose client has been told of its port: that is open
// to others for as long as the wait, which must not outlast who asked for it.
func (g *Group) waits(s *session) {
	s.waiting.Store(true)
	g.watched(s)
}

// watched has reloads, operators and the clock look at s, and judges it now.
func (g *Group) watched(s *session) {
	g.mu.Lock()
	s.revocable = true
	killings := g.killings
	g.mu.Unlock()
	g.killLate(s, killings)
	p := g.Policy()
	listed := s.atDoor().proof != nil // and lists of certificates change without a policy
	if (p != s.policy || listed) && p.Revoke && g.revoke(s, p) {
		return
	}
	g.handler.judge.endLapsed(s, p)
}

// EndLapsed ends the sessions of users who are disabled now, or may not come at
// this time, and returns how many those are: reload.revoke has no say in it,
// for whoever set the time has asked for this.
func (g *Group) EndLapsed() int {
	p, n := g.Policy(), 0
	for _, s := range g.revocableSessions() {
		if g.handler.judge.endLapsed(s, p) {
			n++
		}
	}
	return n + g.handler.plain.servers.endLapsed(p)
}

// endLapsed ends s if its user has lapsed, and logs it.
func (j *judge) endLapsed(s *session, p *Policy) bool {
	refusal := p.Auth.Lapsed(s.identity)
	if refusal == nil || s.ctx.Err() != nil {
		return false
	}
	j.logRevoked(s, string(refusal.Reason), "")
	s.cancel(relay.ErrRevoked)
	return true
}

// Revoke ends the sessions that the current policy would refuse, if that asks
// for it, and returns how many those are. Sessions that still shake hands
// are looked at when they are done with that.
func (g *Group) Revoke() int {
	p, n := g.Policy(), 0
	if !p.Revoke {
		return 0
	}
	for _, s := range g.revocableSessions() {
		if g.revoke(s, p) {
			n++
		}
	}
	return n + g.handler.plain.servers.revoke()
}

// revocableSessions is a copy, so that nobody waits while they are judged.
func (g *Group) revocableSessions() []*session {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]*session, 0, len(g.sessions))
	for s := range g.sessions {
		if s.revocable {
			list = append(list, s)
		}
	}
	return list
}

// revoke ends s if p refuses it. The session is marked as revocable: nobody
// writes any more what is read of it here.
func (g *Group) revoke(s *session, p *Policy) bool {
	if !g.handler.judge.revoked(s, p) {
		return false
	}
	s.cancel(relay.ErrRevoked)
	return true
}

// revoked reports whether p refuses s, and logs it.
func (j *judge) revoked(s *session, p *Policy) bool {
	rule, where := p.refuses(s)
	if rule == "" {
		return false
	}
	j.logRevoked(s, rule, where)
	return true
}

func (j *judge) logRevoked(s *session, rule, where string) {
	j.log.LogAttrs(s.ctx, slog.LevelInfo, "session revoked",
		slog.String("id", s.ID()), slog.String("client", s.caller()), slog.String("user", s.identity.User),
		slog.String("target", s.request.Dest.String()), slog.String("rule", rule), slog.String("where", where))
}

// refuses is what would refuse a session if it came now: a rule and where it
// stands, or the reason of an authsvc.Refusal; "" when nothing does.
func (p *Policy) refuses(s *session) (rule, where string) {
	q := s.query()
	identity, err := p.Auth.Holds(s.identity, s.client.Addr())
	if refusal, ok := errors.AsType[*authsvc.Refusal](err); ok {
		return string(refusal.Reason), ""
	}
	if l, proof := p.listener(s.listener), s.atDoor().proof; proof != nil && l.Revokes != nil && l.Revokes(proof) {
		return byCRL, ""
	}
	if !p.knowsPeer(s) {
		return string(authsvc.ReasonUser), ""
	}
	q.Identity = identity
	if l := p.listener(s.listener); l.MayLogIn != nil && !l.MayLogIn(identity) {
		return byListener, ""
	}
	if s.waiting.Load() {
		return "", "" // its peer is judged when it comes, by the rules of then
	}
	dest := s.reached()
	var route upstream.Route
	switch s.request.Command {
	case wire.CommandConnect:
		route = p.Routes.Route(routeQuery(s.request.Dest, &q))
		if route.Action != upstream.Reject && s.named != nil {
			named := q
			named.Asked = s.askedFor(*s.named)
			route = p.Routes.Route(routeQuery(*s.named, &named))
		}
	case wire.CommandUDPAssociate:
		route = p.Routes.RouteDatagrams(routeQuery(s.datagramsTo(), &q))
	case wire.CommandBind:
		route = p.Routes.Route(routeQuery(dest, &q))
	}
	if route.Action == upstream.Reject {
		return route.Rule, ""
	}
	var d aclsvc.Decision
	q.Name, q.Port = dest.Name, dest.Port
	q.Asked = s.askedFor(dest)
	switch {
	case s.request.Command == wire.CommandUDPAssociate && s.datagramsTo().IsZero():
		d = p.ACL.DecideUnknown(&q) // each datagram is judged by itself
	case s.hostIP.IsValid():
		d = p.ACL.Decide(&q, s.hostIP.Addr())
	case q.Name != "":
		d, _ = p.ACL.DecideName(&q) // the upstream resolves: the name is all there is
	default:
		d = p.ACL.Decide(&q, dest.IP)
	}
	if d.Allow {
		return "", ""
	}
	return d.Rule, d.Where
}

// knowsPeer reports whether a session that was let in by its user id would be the
// same user now. Of a listener that is gone nobody can say otherwise.
func (p *Policy) knowsPeer(s *session) bool {
	uid, local := netaddr.UIDOf(s.atDoor().localUser)
	l, there := p.Listeners[s.listener]
	return s.identity.Method != authsvc.MethodPeer || !local || !there || l.Peers[uid] == s.identity.User
}

// reached is what the rules were asked about when the session was granted: a
// BIND's peer, what a forwarding rule wrote in the place of the request's
// destination, or that.
func (s *session) reached() wire.Addr {
	if s.dest == nil {
		return s.request.Dest
	}
	return *s.dest
}
