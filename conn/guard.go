package conn

import (
	"context"
	"errors"
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
	if g.Throttle.Banned(source) {
		return metrics.RefusedBanned
	}
	switch g.Gate.Enter(source) {
	case ratelimit.TooFast:
		return metrics.RefusedRate
	case ratelimit.TooMany:
		return metrics.RefusedIPLimit
	case ratelimit.Admitted:
	}
	return ""
}

func (g *Guards) leave(s *session) { g.Gate.Leave(s.client.Addr()) }

// admitted counts a client that needed no password.
func (h *Handler) admitted(s *session) {
	h.metrics.Conn.Auth.Of(string(s.identity.Method), "ok").Inc()
}

// verify checks a name and a password, clears the password, and sets the
// session's identity. Every failure looks the same from outside. With
// auth-once the address is let in before this returns, and so before the
// client hears of its success: its next connection may be on the way then.
func (h *Handler) verify(hs *handshake, user, password []byte) error {
	defer clear(password)
	if hs.policy.Auth.Users == nil {
		return h.authFailed(hs, string(user), authsvc.MethodPassword, authsvc.ErrCredentials)
	}
	ctx, cancel := context.WithDeadline(hs.ctx, hs.started.Add(hs.policy.Timeouts.Handshake))
	defer cancel()
	identity, err := hs.policy.Auth.Users.Verify(ctx, hs.client.Addr(), user, password)
	if err != nil {
		return h.authFailed(hs, string(user), authsvc.MethodPassword, err)
	}
	hs.identity = identity
	h.metrics.Conn.Auth.Of(string(identity.Method), "ok").Inc()
	if once := hs.policy.Auth.Once; once != nil {
		once.Add(hs.client.Addr(), identity)
	}
	return nil
}

// authFailed counts and logs a failed authentication, and the ban that it may
// bring. That too many wait for their turn, or that time is up, says nothing
// of the password and counts against nobody.
func (h *Handler) authFailed(hs *handshake, user string, method authsvc.Method, err error) error {
	source := hs.client.Addr()
	hs.identity = authsvc.Identity{User: user}
	if !errors.Is(err, authsvc.ErrCredentials) {
		h.metrics.Conn.Auth.Of(string(method), "error").Inc()
		if log := hs.logger(h.log, slog.LevelDebug); log != nil {
			log.Log(hs.ctx, slog.LevelDebug, "authentication not decided", "err", err)
		}
		return fmt.Errorf("%w: %w", errCredentials, err)
	}
	h.metrics.Conn.Auth.Of(string(method), "failed").Inc()
	authsvc.LogFailure(hs.ctx, h.log, source, []byte(user), method)
	if ban, began := h.guards.Throttle.Fail(source); began {
		authsvc.LogBan(hs.ctx, h.log, ban)
	}
	return errCredentials
}
