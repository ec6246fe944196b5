package conn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"cleversocks/authsvc"
	"cleversocks/conn/handshake"
	"cleversocks/conn/wire/httpproxy"
)

// login is the step that finds out who a client is. What credentials look like
// is the machine's to know; whether they are right, the policy's authenticators'.
type login struct{ log *slog.Logger }

// verify asks whether credentials are right, until ctx or the handshake's time is
// over, and sets the session's identity: on failure to the name that was given, for
// the record. It clears the password.
func (l *login) verify(ctx context.Context, s *session, a *authsvc.Attempt) (authsvc.Grant, error) {
	ctx, cancel := context.WithDeadline(ctx, s.started.Add(s.policy.Timeouts.Handshake))
	defer cancel()
	defer clearPassword(a)
	a.Source, a.Local, a.Listener = s.client.Addr(), s.atDoor().localUser, s.listener
	grant, err := s.policy.Auth.Verify(ctx, a)
	if ended := ctx.Err(); ended != nil && errors.Is(err, ended) {
		err = unjudged(ctx)
	}
	return l.judged(s, a, grant, err)
}

// unjudged is why nobody has looked at credentials by the end of ctx. That their turn
// has not come says nothing of them: a browser would forget a password upon a 407.
func unjudged(ctx context.Context) error {
	why := context.Cause(ctx)
	if errors.Is(why, context.DeadlineExceeded) {
		return mark(why, authsvc.ErrBusy)
	}
	return why
}

// recall is verify for whoever must not wait. Where nothing is decided, verify or
// the attempt's Abandon has to follow.
func (l *login) recall(s *session, a *authsvc.Attempt) (grant authsvc.Grant, decided bool, err error) {
	a.Source, a.Local, a.Listener = s.client.Addr(), s.atDoor().localUser, s.listener
	grant, decided, err = s.policy.Auth.Recall(a)
	if !decided {
		return authsvc.Grant{}, false, nil
	}
	defer clearPassword(a)
	grant, err = l.judged(s, a, grant, err)
	return grant, true, err
}

// clearPassword wipes what is not needed any more.
func clearPassword(a *authsvc.Attempt) {
	if given, ok := a.Credentials.(authsvc.Password); ok {
		clear(given.Password)
	}
}

// judged is what the session makes of a log-in that the policy has judged.
func (l *login) judged(s *session, a *authsvc.Attempt, grant authsvc.Grant, err error) (authsvc.Grant, error) {
	if err == nil {
		s.identity = grant.Identity
		if at := s.policy.listener(s.listener); at.MayLogIn != nil && !at.MayLogIn(grant.Identity) {
			s.rule = byListener
			return authsvc.Grant{}, fmt.Errorf("%w: this listener is not for user %q", handshake.ErrCredentials, grant.Identity.User)
		}
		return grant, nil
	}
	if !a.Optional {
		s.identity = authsvc.Identity{User: a.Credentials.Name()}
	}
	if log := s.logger(l.log, slog.LevelDebug); log != nil {
		log.Log(s.ctx, slog.LevelDebug, "not authenticated", "err", err)
	}
	return grant, fmt.Errorf("%w: %w", handshake.ErrCredentials, err)
}

// overHTTP sets the identity of a request's client. reply is our token to the
// client's, if it gave one.
func (l *login) overHTTP(s *session, given *httpproxy.Credentials) (reply []byte, err error) {
	terms, identity := s.terms(nil)
	credentials, err := terms.Login(given)
	if err != nil {
		if identity, terms.Free = s.freeElsewhere(); terms.Free {
			credentials, err = nil, nil
		}
	}
	switch {
	case err != nil:
		return nil, err
	case credentials == nil:
		s.identity = identity
		s.letIn()
		return nil, nil
	}
	grant, err := l.verify(s.ctx, s, &authsvc.Attempt{Credentials: credentials})
	return grant.Reply, err
}

// terms are what the session's client meets, and who it is if it need not log
// in. ways is memory for its ways to log in.
func (s *session) terms(ways []authsvc.Kind) (t handshake.Terms, id authsvc.Identity) {
	auth, listed := s.policy.Auth, s.listed()
	id, t.Free = s.free()
	t.Named = id.Method != authsvc.MethodNone
	t.Passwords = auth.Accepts(authsvc.KindPassword)
	t.UserIDs = auth.Accepts(authsvc.KindUserID) && listed == nil
	if t.Ways = ways; listed == nil {
		listed = logins
	}
	for _, kind := range listed {
		if auth.Accepts(kind) {
			t.Ways = append(t.Ways, kind)
		}
	}
	return t, id
}

// logins are the kinds of credentials that a client can be asked for, in the
// order of preference where a listener's settings name none.
var logins = []authsvc.Kind{authsvc.KindToken, authsvc.KindPassword}

// free is the identity of a client that need not log in: its door knows it, or
// its address or nothing at all is asked for.
func (s *session) free() (id authsvc.Identity, free bool) {
	if vouched := s.atDoor().vouched; vouched != nil {
		return *vouched, true
	}
	id, free = s.policy.Auth.Free(s.client.Addr())
	if l := s.policy.listener(s.listener); free && l.MayLogIn != nil && !l.MayLogIn(id) {
		return authsvc.Identity{}, false // somebody has to log in here
	}
	return id, free
}

// freeElsewhere is free for a client that is about to be refused for want of
// credentials: another replica may know it.
func (s *session) freeElsewhere() (id authsvc.Identity, free bool) {
	id, free = s.policy.Auth.FreeElsewhere(s.ctx, s.client.Addr())
	if l := s.policy.listener(s.listener); free && l.MayLogIn != nil && !l.MayLogIn(id) {
		return authsvc.Identity{}, false
	}
	return id, free
}

// letIn counts a client that free has let in. One that its door knows was
// counted there.
func (s *session) letIn() {
	if s.atDoor().vouched == nil {
		s.policy.Auth.Admitted(s.identity)
	}
}

// listed are the ways that the listener's settings name for the session's
// client; nil: none, so that all count.
func (s *session) listed() []authsvc.Kind {
	l := s.policy.listener(s.listener)
	if l.AuthFrom != nil {
		if special := l.AuthFrom(s.client.Addr()); special != nil {
			return special
		}
	}
	return l.Auth
}
