package conn

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
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
type httpCodec struct {
	login *login
	heads *httpproxy.Budget // bounds the memory of large heads
}

// negotiate reads requests until one is from a client who may make some.
func (c httpCodec) negotiate(hs *handshake) error {
	if many, err := c.isHTTP2(hs); err != nil || many {
		hs.many = many
		return err
	}
	asked := false
	for {
		heads := httpproxy.HeadReader{Budget: c.heads}
		head, err := heads.Read(hs.in)
		heads.Release()
		if err == nil {
			err = c.take(hs, head)
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errLogin) && staysFor407(head):
			asked = true
			if err := c.write(hs, httpproxy.AppendAuthRequired(nil, hs.challenges(), true)); err != nil {
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
	defer func() {
		if err != nil {
			head.Release()
		}
	}()
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
	if err = c.login.overHTTP(hs, login); err != nil {
		return err
	}
	if head.IsConnect() {
		head.Release()
		return nil
	}
	hs.head = head
	return nil
}

// challenges are what the session's client is asked for, the preferred way
// first.
func (s *session) challenges() (c httpproxy.Challenges) {
	for _, kind := range s.ways() {
		switch kind {
		case authsvc.KindToken:
			c = append(c, httpproxy.Negotiate)
		case authsvc.KindPassword:
			c = append(c, httpproxy.Basic(httpRealm))
		default:
		}
	}
	if len(c) == 0 {
		c = httpproxy.Challenges{httpproxy.Basic(httpRealm)} // a 407 has to ask for something
	}
	return c
}

// refusal is the answer to a request that is not served; nil when nobody is
// there to read one. The connection ends with it.
func (c httpCodec) refusal(hs *handshake, err error) []byte {
	o := outcomeOf(inHandshake, err)
	switch {
	case o.status == 0 || hs.ctx.Err() != nil:
		return nil
	case o.status == http.StatusProxyAuthRequired:
		return httpproxy.AppendAuthRequired(nil, hs.challenges(), false)
	}
	return httpproxy.AppendError(nil, o.status, o.sentence, false)
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
	answer := httpproxy.AppendEstablishedWith(nil, httpproxy.NegotiateField(hs.answer))
	if code != wire.ReplySucceeded {
		answer = hs.httpRefusal(hs.failure).Append(nil, http.MethodConnect)
	}
	_, err := hs.conn.Write(answer)
	return err
}

// httpRefusal is what the session's client of HTTP is told of an outcome: which
// upstream refused and why, and by Proxy-Status what a program can read. Only
// who has logged in hears of a rule's name.
func (s *session) httpRefusal(o outcome) httpproxy.Refusal {
	r := httpproxy.Refusal{Status: o.status, Reason: o.sentence}
	status := httpproxy.ProxyStatus{Error: o.proxyError}
	if o.via != nil {
		status.NextHop, status.ReceivedStatus = o.via.Upstream, o.via.Status
	}
	if s.identity.User != "" {
		status.Details = o.rule
	}
	if o.proxyError != "" {
		r.Fields = status.Line()
	}
	return r
}

// staysFor407 reports whether a client may log in on the same connection: it
// stays, nothing of this request is left to be read, and it reads the line that
// says why, which the answer to a HEAD has not.
func staysFor407(h *httpproxy.Head) bool {
	return h.Length == 0 && !h.Chunked && h.Method != http.MethodHead && h.KeepsAlive()
}
