package conn

import (
	"bytes"
	"errors"
	"io"

	"cleversocks/authsvc"
	"cleversocks/authsvc/gssapi"
	"cleversocks/conn/wire/socks5"
)

// logins are the kinds of credentials that a SOCKS5 client can give, in the
// order of preference where a listener's settings name none.
var logins = []authsvc.Kind{authsvc.KindToken, authsvc.KindPassword}

// methodOf is the method that brings credentials of a kind.
var methodOf = map[authsvc.Kind]socks5.Method{
	authsvc.KindToken: socks5.MethodGSSAPI, authsvc.KindPassword: socks5.MethodPassword,
}

// gssapi is the sub-negotiation of RFC 1961: the client's ticket, our proof
// that we are who it is for, and the level of protection. At a level that
// protects, the session's connection is a wrapped one afterwards.
func (c socks5Codec) gssapi(hs *handshake) error {
	token, err := gssapi.ReadToken(hs.in, gssapi.TokenMessage)
	if err != nil {
		return malformedToken(err)
	}
	attempt := authsvc.Attempt{Credentials: authsvc.Token{Bytes: token}}
	grant, err := c.login.try(hs, &attempt)
	if err == nil && grant.Security == nil {
		err = errNoMethod // an authenticator of tokens without keys
	}
	if err != nil {
		return errors.Join(err, hs.send(gssapi.AppendRefusal(nil)))
	}
	if err := hs.send(acceptedToken(grant.Reply)); err != nil {
		return err
	}
	message, err := gssapi.ReadToken(hs.in, gssapi.LevelMessage)
	if err != nil {
		return malformedToken(err)
	}
	protection := hs.policy.listener(hs.listener).Protection
	level, answer, err := protection.Agree(grant.Security, message)
	if err != nil {
		hs.policy.Auth.Refused(hs.ctx, &attempt, err)
		return errors.Join(errCredentials, err, hs.send(gssapi.AppendRefusal(nil)))
	}
	if err := hs.send(answer); err != nil {
		return err
	}
	if level != gssapi.LevelNone {
		hs.protect(grant.Security, level)
	}
	return nil
}

// acceptedToken is the message with our token, which may be empty: the client
// did not ask for one.
func acceptedToken(reply []byte) []byte { return gssapi.AppendFrame(nil, gssapi.TokenMessage, reply) }

// malformedToken says that a client does not speak RFC 1961, unless it has
// left or was too slow.
func malformedToken(err error) error {
	if gssapi.IsMalformed(err) {
		return errors.Join(socks5.ErrMalformed, err)
	}
	return err
}

// send writes a message of the handshake.
func (hs *handshake) send(b []byte) error {
	_, err := hs.conn.Write(b)
	return err
}

// protect wraps the session's connection, with what has been read of it ahead.
func (hs *handshake) protect(security authsvc.Security, level gssapi.Level) {
	ahead, _ := hs.in.Peek(hs.in.Buffered())
	from := io.Reader(hs.conn)
	if len(ahead) > 0 {
		from = io.MultiReader(bytes.NewReader(bytes.Clone(ahead)), hs.conn)
	}
	hs.conn = gssapi.NewConn(hs.conn, from, security, level)
	hs.in.Reset(hs.conn)
}
