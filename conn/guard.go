package conn

import (
	"cleversocks/aclsvc/ratelimit"
	"cleversocks/authsvc"
	"cleversocks/metrics"
)

// Guards are what counts and remembers clients over connections and reloads.
// Their owner runs those that are services and gives them new settings. A nil
// one keeps nobody out.
type Guards struct {
	Gate     *ratelimit.Gate   // connections by source
	Throttle *authsvc.Throttle // failed authentications by source
	Users    *ratelimit.Users  // connections and bytes by user
	Quotas   *authsvc.Quotas   // bytes by user and period
	// Unsure says that nobody knows how much of a quota is left, and that it
	// then lets nobody in.
	Unsure func() bool
}

// orNone replaces what is nil by what limits nothing.
func (g Guards) orNone(m *metrics.Registry) Guards {
	state := authsvc.StateOptions{Metrics: &m.Auth}
	if g.Gate == nil {
		g.Gate = ratelimit.NewGate()
	}
	if g.Throttle == nil {
		g.Throttle = authsvc.NewThrottle(authsvc.ThrottleOptions{}, state)
	}
	if g.Users == nil {
		g.Users = ratelimit.NewUsers()
	}
	if g.Quotas == nil {
		g.Quotas = authsvc.NewQuotas(state)
	}
	return g
}

// enter asks whether a source may have a connection, the cheapest question
// first; refused is one of metrics.Refused*. Whoever is let in owes one
// leave.
func (g *Guards) enter(s *session) (refused string) {
	source := s.source()
	if !source.IsValid() {
		return "" // on a unix socket: the door tells who it is
	}
	if g.Throttle.Banned(source) {
		return metrics.RefusedBanned
	}
	if !s.client.IsValid() {
		return "" // connections are counted by address
	}
	switch g.Gate.Enter(source) {
	case ratelimit.TooFast:
		return metrics.RefusedRate
	case ratelimit.TooMany:
		return metrics.RefusedIPLimit
	case ratelimit.Admitted:
		s.entered = true
	case ratelimit.Full, ratelimit.TooWide, ratelimit.Unknown: // not of a Gate
	}
	return ""
}

// leave gives back what enter took, if it was asked and let the client in.
func (g *Guards) leave(s *session) {
	if s.entered {
		g.Gate.Leave(s.client.Addr())
	}
}
