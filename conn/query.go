package conn

import (
	"cmp"
	"time"

	"cleversocks/aclsvc"
	"cleversocks/conn/upstream"
	"cleversocks/conn/wire"
)

// What the rules and the forwarding rules are asked about a session.

// query is what the rules are asked about a session's request.
func (s *session) query() aclsvc.Query {
	return aclsvc.Query{
		Identity: s.identity,
		Source:   s.client.Addr(),
		Listener: s.listener,
		Command:  s.request.Command,
		Name:     cmp.Or(s.request.Dest.Name, s.sniffed),
		Port:     s.request.Dest.Port,
	}
}

// queryNow is query with the groups that p gives the user. One whom it
// does not know any more keeps the old ones: to end the session is for Revoke.
func (s *session) queryNow(p *Policy) aclsvc.Query {
	q := s.query()
	if p.Generation != s.policy.Generation { // an association keeps no whole policy: see lasting
		if identity, err := p.Auth.Holds(s.identity, s.client.Addr()); err == nil || identity.Account != nil {
			q.Identity = identity
		}
	}
	return q
}

// queryFor is what the rules are asked about a destination of the session's.
func (s *session) queryFor(dest wire.Addr) aclsvc.Query {
	q := s.query()
	q.Name, q.Port = dest.Name, dest.Port
	if dest == s.request.Dest && !dest.IsName() {
		q.Name = s.sniffed
	}
	q.Asked = s.askedFor(dest)
	return q
}

// routeQuery is what the forwarding rules are asked about a destination of the
// session's.
func (s *session) routeQuery(dest wire.Addr) upstream.Query {
	q := s.queryFor(dest)
	return routeQuery(dest, &q)
}

func routeQuery(dest wire.Addr, q *aclsvc.Query) upstream.Query {
	sniffed := ""
	if !dest.IsName() {
		sniffed = q.Name
	}
	return upstream.Query{Sniffed: sniffed, Dest: dest, User: q.Identity.User, Groups: q.Identity.Groups, Source: q.Source, Listener: q.Listener, Asked: q.Asked, Session: q.Identity.Session(time.Now())}
}

// askedFor is what the client asked for when it got dest by a search list; "" when
// it asked for dest itself.
func (s *session) askedFor(dest wire.Addr) string {
	switch {
	case !dest.IsName():
		return ""
	case s.named != nil && dest.Name == s.named.Name:
		return s.request.Dest.Name
	}
	return s.asked.of(dest.Name)
}
