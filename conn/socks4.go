package conn

import (
	"errors"
	"net/netip"

	"cleversocks/authsvc"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/socks4"
)

// socks4Codec is SOCKS4 and 4a.
type socks4Codec struct{ login *login }

func (c socks4Codec) negotiate(hs *handshake) error {
	request, err := parsed(hs.in, socks4.ParseRequest)
	hs.request = request.Request
	switch {
	case errors.Is(err, socks4.ErrCommand), errors.Is(err, socks4.ErrMalformed), errors.Is(err, socks4.ErrTooLong):
		return mark(err, errUnanswered)
	case err != nil:
		return err
	}
	return c.identify(hs, request.UserID)
}

// identify says who the client is. The protocol proves nothing about that: a
// user id counts only where the settings say so, and only for users who have
// no password.
func (c socks4Codec) identify(hs *handshake, userID string) error {
	auth := hs.policy.Auth
	identity, free := hs.free()
	if userID != "" && auth.Accepts(authsvc.KindUserID) && hs.listed() == nil {
		_, err := c.login.try(hs, &authsvc.Attempt{Credentials: authsvc.UserID(userID), Optional: free})
		if err == nil {
			return nil
		}
		if !free {
			return mark(err, errUnanswered)
		}
	}
	if !free {
		// Nothing that this client could have sent would have been right: no
		// failed authentication.
		return mark(errNoMethod, errUnanswered)
	}
	hs.letIn(identity)
	return nil
}

func (c socks4Codec) reply(hs *handshake, code wire.ReplyCode, bound netip.AddrPort) error {
	var buf [socks4.ReplyLen]byte
	_, err := hs.conn.Write(socks4.AppendReply(buf[:0], code, bound))
	return err
}
