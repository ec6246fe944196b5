package conn

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"cleversocks/authsvc"
	"cleversocks/conn/wire/httpproxy"
)

// login is the step that finds out who a client is. What credentials look like
// is the codecs' to know; whether they are right, the policy's authenticators'.
type login struct{ log *slog.Logger }

// verify asks whether credentials are right, and sets the session's identity:
// on failure to the name that was given, for the record. It clears the
// password.
func (l *login) verify(hs *handshake, credentials authsvc.Credentials) error {
	if given, ok := credentials.(authsvc.Password); ok {
		defer clear(given.Password)
	}
	_, err := l.try(hs, &authsvc.Attempt{Credentials: credentials})
	return err
}

func (l *login) try(hs *handshake, a *authsvc.Attempt) (authsvc.Grant, error) {
	ctx, cancel := context.WithDeadline(hs.ctx, hs.started.Add(hs.policy.Timeouts.Handshake))
	defer cancel()
	a.Source, a.Listener = hs.client.Addr(), hs.listener
	grant, err := hs.policy.Auth.Verify(ctx, a)
	if err == nil {
		if at := hs.policy.listener(hs.listener); at.MayLogIn != nil && !at.MayLogIn(grant.Identity) {
			hs.identity, hs.rule = grant.Identity, byListener
			return authsvc.Grant{}, fmt.Errorf("%w: this listener is not for user %q", errCredentials, grant.Identity.User)
		}
		hs.identity = grant.Identity
		return grant, nil
	}
	if !a.Optional {
		hs.identity = authsvc.Identity{User: a.Credentials.Name()}
	}
	if log := hs.logger(l.log, slog.LevelDebug); log != nil {
		log.Log(hs.ctx, slog.LevelDebug, "not authenticated", "err", err)
	}
	return grant, fmt.Errorf("%w: %w", errCredentials, err)
}

// overHTTP sets the identity of a request's client, like the password
// methods of SOCKS5: where nobody has a password, one that is given anyway is
// not looked at. It returns errLogin when there has to be one.
func (l *login) overHTTP(hs *handshake, given *httpproxy.Credentials) error {
	identity, free := hs.free()
	switch {
	case given != nil && given.Token != nil && hs.takes(authsvc.KindToken):
		grant, err := l.try(hs, &authsvc.Attempt{Credentials: authsvc.Token{Bytes: given.Token, Negotiate: true}})
		hs.answer = grant.Reply
		return err
	case given != nil && given.Token == nil && hs.takes(authsvc.KindPassword):
		return l.verify(hs, authsvc.Password{User: []byte(given.User), Password: []byte(given.Password)})
	case !free:
		return errLogin
	}
	hs.letIn(identity)
	return nil
}

// free is the identity of a client that need not log in: its door knows it, or
// its address or nothing at all is asked for.
func (hs *handshake) free() (id authsvc.Identity, free bool) {
	if hs.vouched != nil {
		return *hs.vouched, true
	}
	id, free = hs.policy.Auth.Free(hs.client.Addr())
	if l := hs.policy.listener(hs.listener); free && l.MayLogIn != nil && !l.MayLogIn(id) {
		return authsvc.Identity{}, false // somebody has to log in here
	}
	return id, free
}

// letIn counts a client that free has let in. One that its door knows was
// counted there.
func (hs *handshake) letIn(id authsvc.Identity) {
	hs.identity = id
	if hs.vouched == nil {
		hs.policy.Auth.Admitted(id)
	}
}

// ways are the kinds of credentials that the session's client may log in with,
// the preferred one first.
func (s *session) ways() []authsvc.Kind {
	list := s.listed()
	if list == nil {
		list = logins
	}
	var ways []authsvc.Kind
	for _, kind := range list {
		if s.policy.Auth.Accepts(kind) {
			ways = append(ways, kind)
		}
	}
	return ways
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

// takes reports whether the session's client may log in with such credentials.
func (s *session) takes(kind authsvc.Kind) bool { return slices.Contains(s.ways(), kind) }
