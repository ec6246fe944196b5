package conn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"cleversocks/authsvc"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/socks5"
)

// errNoMethod and errCredentials end a handshake that was understood.
var (
	errNoMethod    = errors.New("no acceptable authentication method")
	errCredentials = errors.New("authentication failed")
)

// socks5Codec is RFC 1928 and RFC 1929.
type socks5Codec struct{ h *Handler }

func (c socks5Codec) negotiate(hs *handshake) error {
	offered, err := socks5.ReadMethods(hs.in)
	if err != nil {
		return err
	}
	method := c.choose(hs, offered)
	if log := hs.logger(c.h.log, levelTrace); log != nil {
		log.Log(hs.ctx, levelTrace, "method chosen", "method", uint8(method))
	}
	if err = socks5.WriteMethod(hs.conn, method); err != nil {
		return err
	}
	switch method {
	case socks5.MethodNone:
		c.h.admitted(hs.session)
	case socks5.MethodPassword:
		if err = c.authenticate(hs); err != nil {
			return err
		}
	default:
		return errNoMethod
	}
	hs.request, err = socks5.ReadRequest(hs.in)
	return err
}

// choose picks the method. Without a need for one, none is taken where it is
// offered (Java's client always offers a password too, a made-up one), unless
// there are users, whose names the rules and the log then want to know.
func (c socks5Codec) choose(hs *handshake, offered socks5.Methods) socks5.Method {
	auth := &hs.policy.Auth
	var admitted bool
	hs.identity, admitted = hs.withoutPassword()
	switch {
	case admitted && auth.Users == nil && offered.Has(socks5.MethodNone):
		return socks5.MethodNone
	case offered.Has(socks5.MethodPassword):
		return socks5.MethodPassword
	case admitted && offered.Has(socks5.MethodNone):
		return socks5.MethodNone
	}
	return socks5.MethodNoAcceptable
}

func (c socks5Codec) authenticate(hs *handshake) error {
	user, password, err := socks5.ReadCredentials(hs.in)
	if err != nil {
		return err
	}
	if hs.policy.Auth.Users == nil && !hs.policy.Auth.Required {
		// Nobody is asked for a password, this client insists on giving one.
		clear(password)
		c.h.admitted(hs.session)
		return socks5.WriteStatus(hs.conn, true)
	}
	if err := c.h.verify(hs, user, password); err != nil {
		return errors.Join(err, socks5.WriteStatus(hs.conn, false))
	}
	return socks5.WriteStatus(hs.conn, true)
}

func (c socks5Codec) reply(hs *handshake, code wire.ReplyCode, bound netip.AddrPort) error {
	return hs.replySOCKS5(code, bound)
}

// admitted counts a client that needed no password.
func (h *Handler) admitted(s *session) {
	h.metrics.Conn.Auth.Of(string(s.identity.Method), "ok").Inc()
}

// verify checks a name and a password, clears the password, and sets the
// session's identity. Every failure looks the same from outside.
func (h *Handler) verify(hs *handshake, user, password []byte) error {
	defer clear(password)
	ctx, cancel := context.WithDeadline(hs.ctx, hs.started.Add(hs.policy.Timeouts.Handshake))
	defer cancel()
	identity, err := hs.policy.Auth.Users.Verify(ctx, hs.client.Addr(), user, password)
	method := string(authsvc.MethodPassword)
	if err != nil {
		h.authFailed(hs, string(user), authsvc.MethodPassword)
		return fmt.Errorf("%w: %w", errCredentials, err)
	}
	h.metrics.Conn.Auth.Of(method, "ok").Inc()
	hs.identity = identity
	return nil
}

// authFailed counts and logs a failed authentication.
func (h *Handler) authFailed(hs *handshake, user string, method authsvc.Method) {
	h.metrics.Conn.Auth.Of(string(method), "failed").Inc()
	hs.identity.User = user
	h.log.LogAttrs(hs.ctx, slog.LevelWarn, "authentication failed",
		slog.String("id", hs.ID()), slog.String("client", hs.client.Addr().String()),
		slog.String("user", user), slog.String("method", string(method)))
}
