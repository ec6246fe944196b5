package conn

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/netip"

	"cleversocks/authsvc"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/socks5"
)

// socks5Codec is RFC 1928 and RFC 1929.
type socks5Codec struct{ login *login }

func (c socks5Codec) negotiate(hs *handshake) error {
	offered, err := parsed(hs.in, socks5.ParseMethods)
	if err != nil {
		return err
	}
	method := c.choose(hs, offered)
	if log := hs.logger(c.login.log, levelTrace); log != nil {
		log.Log(hs.ctx, levelTrace, "method chosen", "method", uint8(method))
	}
	if err = hs.send(socks5.AppendMethod(nil, method)); err != nil {
		return err
	}
	switch method {
	case socks5.MethodNone:
		hs.letIn(hs.identity)
	case socks5.MethodPassword:
		if err = c.authenticate(hs); err != nil {
			return err
		}
	case socks5.MethodGSSAPI:
		if err = c.gssapi(hs); err != nil {
			return err
		}
	default:
		return errNoMethod
	}
	hs.request, err = parsed(hs.in, socks5.ParseRequest)
	return err
}

// choose picks the method. Of those that log in, the listener's order counts,
// not the client's: curl offers no authentication first whatever it was given. Without a need for one, none is taken where it is
// offered (Java's client always offers a password too, a made-up one), unless
// nobody has to log in and yet there are users, whose names the rules and the
// log then want to know.
func (c socks5Codec) choose(hs *handshake, offered socks5.Methods) socks5.Method {
	identity, free := hs.free()
	if free {
		hs.identity = identity
	}
	ways := hs.ways()
	anonymous := identity.Method == authsvc.MethodNone && len(ways) > 0
	if free && !anonymous && offered.Has(socks5.MethodNone) {
		return socks5.MethodNone
	}
	for _, kind := range ways {
		if offered.Has(methodOf[kind]) {
			return methodOf[kind]
		}
	}
	switch {
	case len(ways) == 0 && offered.Has(socks5.MethodPassword):
		return socks5.MethodPassword // nobody has one, and this client insists
	case free && offered.Has(socks5.MethodNone):
		return socks5.MethodNone
	}
	return socks5.MethodNoAcceptable
}

func (c socks5Codec) authenticate(hs *handshake) error {
	var user, password []byte
	_, err := parsed(hs.in, func(b []byte) (_ struct{}, n int, err error) {
		var secret []byte
		user, secret, n, err = socks5.ParseCredentials(b)
		user, password = bytes.Clone(user), bytes.Clone(secret)
		clear(secret) // the buffer is reused by other connections
		return struct{}{}, n, err
	})
	if err != nil {
		return err
	}
	if auth := hs.policy.Auth; !auth.Accepts(authsvc.KindPassword) && hs.identity.Method != "" {
		// Nobody has a password, and this client insists on giving one.
		clear(password)
		hs.letIn(hs.identity)
		return hs.send(socks5.AppendStatus(nil, true))
	}
	if err := c.login.verify(hs, authsvc.Password{User: user, Password: password}); err != nil {
		return errors.Join(err, hs.send(socks5.AppendStatus(nil, false)))
	}
	return hs.send(socks5.AppendStatus(nil, true))
}

func (c socks5Codec) reply(hs *handshake, code wire.ReplyCode, bound netip.AddrPort) error {
	return hs.replySOCKS5(code, bound)
}

// parsed reads a message as soon as it is whole, and not a byte behind it.
func parsed[T any](r *bufio.Reader, parse func([]byte) (T, int, error)) (T, error) {
	for {
		b, _ := r.Peek(r.Buffered())
		message, n, err := parse(b)
		if !errors.Is(err, wire.ErrShort) {
			_, _ = r.Discard(n)
			return message, err
		}
		if _, err := r.Peek(len(b) + 1); err != nil {
			if errors.Is(err, io.EOF) && len(b) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return message, err
		}
	}
}
