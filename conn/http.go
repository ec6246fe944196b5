package conn

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"cleversocks/authsvc"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
)

// httpRealm is what a 407 asks for.
const httpRealm = "cleversocks"

// httpGrace is for the last answer to a client whose handshake took too long.
const httpGrace = time.Second

// errLogin is a request without credentials where some are needed. It was
// answered 407 and is no failed authentication: git, Java and
// curl --proxy-anyauth all ask before they log in.
var errLogin = errors.New("no credentials")

// httpCodec is HTTP/1: CONNECT (RFC 9110 §9.3.6), and requests in
// absolute-form, of which it leaves the first one to forward.
type httpCodec struct{ h *Handler }

// negotiate reads requests until one is from a client who may make some.
func (c httpCodec) negotiate(hs *handshake) error {
	asked := false
	for {
		var heads httpproxy.HeadReader
		head, err := heads.Read(hs.in)
		if err == nil {
			err = c.take(hs, head)
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errLogin) && keepsAlive(head):
			asked = true
			if err := c.write(hs, httpproxy.AppendAuthRequired(nil, httpRealm, true)); err != nil {
				return err
			}
			continue
		case asked && head == nil && !heads.Started():
			return errLogin // it knows what is asked, and left or fell silent
		}
		return errors.Join(err, c.write(hs, c.refusal(hs, err)))
	}
}

// take judges a request's form and who makes it. A plain request's head is
// left in hs.head.
func (c httpCodec) take(hs *handshake, head *httpproxy.Head) error {
	var err error
	if hs.request, err = head.Request(); err != nil {
		return err
	}
	credentials, given, err := head.Credentials()
	if err != nil {
		return err
	}
	var login *httpproxy.Credentials
	if given {
		login = &credentials
	}
	if err := c.h.httpLogin(hs, login); err != nil {
		return err
	}
	if !head.IsConnect() {
		hs.head = head
	}
	return nil
}

// httpLogin sets the identity of a request's client, like the password
// methods of SOCKS5: where nobody has a password, one that is given anyway is
// not looked at. It returns errLogin when there has to be one.
func (h *Handler) httpLogin(hs *handshake, given *httpproxy.Credentials) error {
	auth := hs.policy.Auth
	identity, free := hs.free()
	switch {
	case given != nil && auth.Accepts(authsvc.KindPassword):
		return h.verify(hs, authsvc.Password{User: []byte(given.User), Password: []byte(given.Password)})
	case !free:
		return errLogin
	}
	hs.admitted(identity)
	return nil
}

// refusal is the answer to a request that is not served; nil when nobody is
// there to read one. The connection ends with it.
func (c httpCodec) refusal(hs *handshake, err error) []byte {
	status, isStatus := errors.AsType[*httpproxy.StatusError](err)
	switch {
	case isStatus:
		return httpproxy.AppendError(nil, status.Status, status.Reason, false)
	case errors.Is(err, authsvc.ErrBusy):
		return httpproxy.AppendError(nil, http.StatusServiceUnavailable, "Too many log in at this time.", false)
	case errors.Is(err, errLogin), errors.Is(err, errCredentials):
		return httpproxy.AppendAuthRequired(nil, httpRealm, false)
	case errors.Is(err, os.ErrDeadlineExceeded) && hs.ctx.Err() == nil:
		return httpproxy.AppendError(nil, http.StatusRequestTimeout, "The request took too long.", false)
	}
	return nil
}

// write sends an answer, also past the deadline of the handshake.
func (c httpCodec) write(hs *handshake, answer []byte) error {
	if len(answer) == 0 {
		return nil
	}
	if err := hs.conn.SetWriteDeadline(time.Now().Add(httpGrace)); err != nil {
		return err
	}
	if _, err := hs.conn.Write(answer); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}

func (c httpCodec) reply(hs *handshake, code wire.ReplyCode, _ netip.AddrPort) error {
	answer := httpproxy.AppendEstablished(nil)
	if code != wire.ReplySucceeded {
		answer = httpproxy.AppendError(nil, httpproxy.Status(code), httpproxy.Reason(code), false)
	}
	_, err := hs.conn.Write(answer)
	return err
}

// keepsAlive reports whether another request may follow a refusal: the client
// said so, nothing of this one is left to be read, and it reads the line that
// says why, which the answer to a HEAD has not.
func keepsAlive(h *httpproxy.Head) bool {
	if h.Length > 0 || h.Chunked || h.Method == http.MethodHead {
		return false
	}
	for _, f := range h.Fields {
		if !strings.EqualFold(f.Name, "Connection") && !strings.EqualFold(f.Name, "Proxy-Connection") {
			continue
		}
		for option := range strings.SplitSeq(f.Value, ",") {
			switch strings.ToLower(strings.TrimSpace(option)) {
			case "close":
				return false
			case "keep-alive":
				return true
			}
		}
	}
	return h.Minor >= 1 // RFC 9112 §9.3
}
