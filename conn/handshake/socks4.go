package handshake

import (
	"errors"

	"cleversocks/authsvc"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/socks4"
)

// The steps of SOCKS4, and of a connection that a packet filter turned here:
//
//	socks4Request -> userID -+-> userIDJudged -+-> decide
//	                         +-----------------+-> the end: refused
//	turned -> turnedKnown -> decide

// socks4Request reads the request.
func (m *Machine) socks4Request() Action {
	request, n, err := socks4.ParseRequest(m.in)
	if errors.Is(err, wire.ErrShort) {
		return Read
	}
	if m.request = request.Request; err != nil {
		return m.failRequest(err)
	}
	m.take(n)
	m.userID, m.next = request.UserID, (*Machine).asUser
	return Identify
}

// asUser says who the client is. The protocol proves nothing about that: a
// user id counts only where the settings say so, and only for users who have
// no password.
func (m *Machine) asUser() Action {
	if m.userID != "" && m.terms.UserIDs {
		return m.verify(authsvc.UserID(m.userID), m.terms.Free, (*Machine).userIDJudged)
	}
	return m.unasked()
}

func (m *Machine) userIDJudged() Action {
	switch {
	case m.denied == nil:
		return m.decide()
	case !m.terms.Free:
		return m.failRequest(m.denied)
	}
	return m.admit((*Machine).decide)
}

// unasked lets a client in that cannot be asked for credentials, or refuses it.
// Nothing that it could have sent would have been right: no failed
// authentication.
func (m *Machine) unasked() Action {
	switch {
	case m.terms.Free:
		return m.admit((*Machine).decide)
	case m.search((*Machine).unasked):
		return Search
	}
	return m.failRequest(ErrNoMethod)
}

// turned is a client that believes it speaks to its server: what it asked for
// is known from the packet filter.
func (m *Machine) turned() Action {
	m.request = wire.Request{
		Protocol: wire.Transparent, Command: wire.CommandConnect, Dest: wire.FromAddrPort(m.options.Transparent),
	}
	m.next = (*Machine).unasked
	return Identify
}
