package conn

import (
	"context"
	"fmt"
	"log/slog"

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
	source := s.client.Addr()
	if !source.IsValid() {
		return "" // on a unix socket: nothing counts by source
	}
	if g.Throttle.Banned(source) {
		return metrics.RefusedBanned
	}
	switch g.Gate.Enter(source) {
	case ratelimit.TooFast:
		return metrics.RefusedRate
	case ratelimit.TooMany:
		return metrics.RefusedIPLimit
	case ratelimit.Admitted:
		s.entered = true
	case ratelimit.Full: // not of a Gate
	}
	return ""
}

// leave gives back what enter took, if it was asked and let the client in.
func (g *Guards) leave(s *session) {
	if s.entered {
		g.Gate.Leave(s.client.Addr())
	}
}

// atAccept asks whether a connection is let in as far as its socket tells; the
// rest waits for the door when the peer may pass on somebody else's.
func (h *Handler) atAccept(s *session) (refused string) {
	if policy := h.policy.Load(); policy != nil {
		l, peer := policy.listener(s.listener), s.client.Addr()
		if l.Refuses != nil && l.Refuses(peer) {
			return metrics.RefusedSource
		}
		if s.forwarded = l.Forwards != nil && l.Forwards(peer); s.forwarded {
			return ""
		}
		if l.Allows != nil && !l.Allows(peer) {
			return metrics.RefusedSource
		}
	}
	return h.guards.enter(s)
}

// verify asks whether credentials are right, and sets the session's identity:
// on failure to the name that was given, for the record. It clears the
// password.
func (h *Handler) verify(hs *handshake, credentials authsvc.Credentials) error {
	if given, ok := credentials.(authsvc.Password); ok {
		defer clear(given.Password)
	}
	_, err := h.try(hs, &authsvc.Attempt{Credentials: credentials})
	return err
}

func (h *Handler) try(hs *handshake, a *authsvc.Attempt) (authsvc.Grant, error) {
	ctx, cancel := context.WithDeadline(hs.ctx, hs.started.Add(hs.policy.Timeouts.Handshake))
	defer cancel()
	a.Source, a.Listener = hs.client.Addr(), hs.listener
	grant, err := hs.policy.Auth.Verify(ctx, a)
	if err == nil {
		if l := hs.policy.listener(hs.listener); l.Admits != nil && !l.Admits(grant.Identity) {
			hs.identity, hs.rule = grant.Identity, byListener
			return authsvc.Grant{}, fmt.Errorf("%w: this listener is not for user %q", errCredentials, grant.Identity.User)
		}
		hs.identity = grant.Identity
		return grant, nil
	}
	if !a.Optional {
		hs.identity = authsvc.Identity{User: a.Credentials.Name()}
	}
	if log := hs.logger(h.log, slog.LevelDebug); log != nil {
		log.Log(hs.ctx, slog.LevelDebug, "not authenticated", "err", err)
	}
	return grant, fmt.Errorf("%w: %w", errCredentials, err)
}
