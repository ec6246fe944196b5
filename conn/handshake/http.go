package handshake

import (
	"bytes"
	"net/http"
	"net/netip"

	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
)

// The steps of HTTP/1, CONNECT (RFC 9110 §9.3.6) and requests in absolute-form,
// of which the first is left to be forwarded:
//
//	preface -+-> requestHead -> login -+-> loginJudged -+-> decide
//	         |        ^                |                +-> Forward
//	         |        +-- 407, stays --+-> the end: 407, closes
//	         +-> Multiplex: HTTP/2

// httpState is what a machine holds of HTTP.
type httpState struct {
	heads httpproxy.HeadReader
	head  *httpproxy.Head
	given *httpproxy.Credentials
	// asked: the client has had a 407 and may try again.
	asked bool
	// last: it may not, since others read what comes behind this request.
	last bool
}

// http2Preface is what a client of HTTP/2 begins with (RFC 9113 §3.4). With TLS
// it has been agreed on by ALPN; without, the client knows.
const http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// http2Method is enough of it to know that no text is expected as an answer.
const http2Method = "PRI "

// preface tells HTTP/2, which no request of HTTP/1 begins like.
func (m *Machine) preface() Action {
	n := min(len(m.in), len(http2Preface))
	switch {
	case m.options.Inner, string(m.in[:n]) != http2Preface[:n]:
		m.next = (*Machine).requestHead
		return goOn
	case n < len(http2Preface):
		return Read
	}
	m.next = nil
	return Multiplex
}

// requestHead reads one head.
func (m *Machine) requestHead() Action {
	head, n, err := m.http.heads.Feed(m.in)
	m.take(n)
	switch {
	case err != nil:
		return m.failHTTP(err)
	case head == nil:
		return Read
	}
	m.http.head = head
	return m.headRead()
}

// Resume starts over with a request whose head was read by others, who have
// served those before it. ahead is what came behind it.
func (m *Machine) Resume(o Options, head *httpproxy.Head, ahead []byte) Action {
	m.reset(o)
	m.protocol = named(wire.HTTP)
	m.kept = append(m.kept, ahead...)
	m.in = m.kept
	m.http.head, m.http.last = head, true
	m.next = (*Machine).headRead
	return m.run()
}

// headRead judges a request's form.
func (m *Machine) headRead() Action {
	var err error
	if m.request, err = m.http.head.Request(); err != nil {
		return m.failHTTP(err)
	}
	credentials, given, err := m.http.head.Credentials()
	if err != nil {
		return m.failHTTP(err)
	}
	m.searched = false
	if m.http.given = nil; given {
		m.http.given = &credentials
	}
	m.next = (*Machine).login
	return Identify
}

// login judges who makes a request. A client that asks before it logs in may
// come again.
func (m *Machine) login() Action {
	credentials, err := m.terms.Login(m.http.given)
	switch {
	case err != nil && m.search((*Machine).login):
		return Search
	case err != nil && !m.http.last && staysFor407(m.http.head):
		m.http.asked = true
		m.http.head.Release()
		m.http.head = nil
		return m.write(httpproxy.AppendAuthRequired(nil, m.terms.Challenges(), true), (*Machine).requestHead)
	case err != nil:
		return m.failHTTP(err)
	case credentials == nil:
		m.denied = nil
		return m.admit((*Machine).loginJudged)
	}
	return m.verify(credentials, false, (*Machine).loginJudged)
}

func (m *Machine) loginJudged() Action {
	switch {
	case m.denied != nil:
		return m.failHTTP(m.denied)
	case m.http.head.IsConnect():
		m.http.head.Release()
		return m.decide()
	}
	m.next = nil
	return Forward
}

// Head is the request that Forward is about.
func (m *Machine) Head() *httpproxy.Head { return m.http.head }

// failHTTP ends the connection with an answer, if there is one.
func (m *Machine) failHTTP(err error) Action { return m.fail(err, (*Machine).httpAnswer) }

// httpAnswer is the answer to a request that is not served.
func (m *Machine) httpAnswer() []byte {
	switch refusal := m.failure.HTTP; refusal.Status {
	case 0: // nobody is there to read one
		return nil
	case http.StatusProxyAuthRequired:
		return httpproxy.AppendAuthRequired(nil, m.terms.Challenges(), false)
	default:
		return refusal.Append(nil, "")
	}
}

// httpLost tells a client that its request took too long. One that was told what
// it is asked for, and left or fell silent, hears nothing more, and neither does
// one of HTTP/2, to which this would be no answer.
func (m *Machine) httpLost(err error) Action {
	switch {
	case m.http.asked && !m.http.heads.Started():
		return m.fail(ErrLogin, nil)
	case bytes.HasPrefix(m.in, []byte(http2Method)):
		return m.fail(err, nil)
	}
	return m.failHTTP(err)
}

// httpReply tells a client how its CONNECT ended.
func httpReply(b []byte, m *Machine, code wire.ReplyCode, _ netip.AddrPort) []byte {
	if code == wire.ReplySucceeded {
		return httpproxy.AppendEstablished(b, httpproxy.NegotiateField(m.answer))
	}
	return m.failure.HTTP.Append(b, http.MethodConnect)
}

// staysFor407 reports whether a client may log in on the same connection: it
// stays, nothing of this request is left to be read, and it reads the line that
// says why, which the answer to a HEAD has not.
func staysFor407(h *httpproxy.Head) bool {
	return h.Length == 0 && !h.Chunked && h.Method != http.MethodHead && h.KeepsAlive()
}
