package handshake

import (
	"bytes"
	"errors"

	"cleversocks/authsvc"
	"cleversocks/authsvc/gssapi"
	"cleversocks/conn/wire/socks5"
)

// The steps of SOCKS5 (RFC 1928), each in the order in which it follows:
//
//	methods -> choose -+-> socks5Request -> decide
//	                   +-> password -> passwordJudged -> socks5Request
//	                   +-> ticket -> ticketJudged -> level -> levelJudged -> socks5Request
//	                   +-> the end: no method

// methods reads what the client offers.
func (m *Machine) methods() Action {
	offered, n, err := socks5.ParseMethods(m.in)
	if err != nil {
		return m.more(err)
	}
	m.take(n)
	m.offered, m.next = offered, (*Machine).choose
	return Identify
}

// choose answers with a method.
func (m *Machine) choose() Action {
	method := m.terms.method(m.offered)
	if method == socks5.MethodNoAcceptable && m.offered.Has(socks5.MethodNone) && m.search((*Machine).choose) {
		return Search
	}
	next := (*Machine).noMethod
	switch method {
	case socks5.MethodNone:
		next = (*Machine).free
	case socks5.MethodPassword:
		next = (*Machine).password
	case socks5.MethodGSSAPI:
		next = (*Machine).ticket
	default:
	}
	return m.write(socks5.AppendMethod(m.small[:0], method), next)
}

func (m *Machine) noMethod() Action { return m.fail(ErrNoMethod, nil) }

func (m *Machine) free() Action { return m.admit((*Machine).socks5Request) }

// password reads user and password (RFC 1929).
func (m *Machine) password() Action {
	user, password, n, err := socks5.ParseCredentials(m.in)
	if errors.Is(err, socks5.ErrMalformed) {
		return m.fail(err, (*Machine).failed)
	}
	if err != nil {
		return m.more(err)
	}
	if !m.terms.Passwords && m.terms.Free {
		// Nobody has a password, and this client insists on giving one.
		clear(password)
		m.take(n)
		m.denied = nil
		return m.admit((*Machine).passwordJudged)
	}
	both := bytes.Clone(m.in[2:n]) // and the byte between them
	clear(password)
	given := authsvc.Password{User: both[:len(user):len(user)], Password: both[len(user)+1:]}
	m.take(n)
	return m.verify(given, false, (*Machine).passwordJudged)
}

func (m *Machine) passwordJudged() Action {
	if m.denied != nil {
		return m.fail(m.denied, (*Machine).status)
	}
	return m.write(m.status(), (*Machine).socks5Request)
}

func (m *Machine) status() []byte { return socks5.AppendStatus(m.small[:0], m.denied == nil) }

func (m *Machine) failed() []byte { return socks5.AppendStatus(m.small[:0], false) }

// ticket reads the client's token (RFC 1961 §3).
func (m *Machine) ticket() Action {
	token, n, err := gssapi.SplitToken(m.in, gssapi.TokenMessage)
	if err != nil {
		return m.malformedToken(err)
	}
	given := authsvc.Token{Bytes: bytes.Clone(token)}
	m.take(n)
	return m.verify(given, false, (*Machine).ticketJudged)
}

// ticketJudged sends our proof that we are who the ticket is for. It may be
// empty: the client did not ask for one.
func (m *Machine) ticketJudged() Action {
	if m.denied != nil {
		return m.fail(m.denied, (*Machine).noToken)
	}
	return m.write(gssapi.AppendFrame(nil, gssapi.TokenMessage, m.answer), (*Machine).level)
}

// level reads the protection that the client asks for (RFC 1961 §4).
func (m *Machine) level() Action {
	token, n, err := gssapi.SplitToken(m.in, gssapi.LevelMessage)
	if err != nil {
		return m.malformedToken(err)
	}
	m.token = bytes.Clone(token)
	m.take(n)
	m.next = (*Machine).levelJudged
	return Agree
}

func (m *Machine) levelJudged() Action {
	switch {
	case m.denied != nil:
		return m.fail(m.denied, (*Machine).noToken)
	case m.protect:
		return m.write(m.answer, (*Machine).wrap)
	}
	return m.write(m.answer, (*Machine).socks5Request)
}

// wrap has everything from here on protected, the request first.
func (m *Machine) wrap() Action {
	m.next = (*Machine).socks5Request
	return Protect
}

func (m *Machine) noToken() []byte { return gssapi.AppendRefusal(m.small[:0]) }

// malformedToken is what a message means that is not there whole, or none of
// RFC 1961.
func (m *Machine) malformedToken(err error) Action {
	if gssapi.IsMalformed(err) {
		err = errors.Join(socks5.ErrMalformed, err)
	}
	return m.more(err)
}

// socks5Request reads the request.
func (m *Machine) socks5Request() Action {
	request, n, err := socks5.ParseRequest(m.in)
	if _, isRefused := errors.AsType[*socks5.RequestError](err); isRefused {
		m.request = request
		return m.failRequest(err)
	}
	if err != nil {
		return m.more(err)
	}
	m.take(n)
	m.request = request
	return m.decide()
}
