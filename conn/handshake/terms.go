package handshake

import (
	"slices"

	"cleversocks/authsvc"
	"cleversocks/conn/wire/httpproxy"
	"cleversocks/conn/wire/socks5"
)

// Terms are what a client meets: whether it has to log in, and how it may.
type Terms struct {
	// Free: it need not log in. Named: that is because somebody knows who it is,
	// or its address, and not because nobody has to.
	Free, Named bool
	// Ways are the kinds of credentials that it may log in with, the preferred
	// one first.
	Ways []authsvc.Kind
	// Passwords: somebody here has one, whatever the listener's ways are.
	Passwords bool
	// UserIDs: the user id of SOCKS4 is asked about.
	UserIDs bool
}

// methodOf is the method that brings credentials of a kind.
func methodOf(kind authsvc.Kind) (m socks5.Method, ok bool) {
	switch kind {
	case authsvc.KindToken:
		return socks5.MethodGSSAPI, true
	case authsvc.KindPassword:
		return socks5.MethodPassword, true
	default:
		return 0, false
	}
}

// method picks one of those that a client of SOCKS5 offers. Of those that log
// in, the listener's order counts, not the client's: curl offers no
// authentication first whatever it was given. Without a need for one, none is
// taken where it is offered (Java's client always offers a password too, a
// made-up one), unless nobody has to log in and yet there are users, whose names
// the rules and the log then want to know.
func (t *Terms) method(offered socks5.Methods) socks5.Method {
	anonymous := !t.Named && len(t.Ways) > 0
	if t.Free && !anonymous && offered.Has(socks5.MethodNone) {
		return socks5.MethodNone
	}
	for _, kind := range t.Ways {
		if m, ok := methodOf(kind); ok && offered.Has(m) {
			return m
		}
	}
	switch {
	case len(t.Ways) == 0 && offered.Has(socks5.MethodPassword):
		return socks5.MethodPassword // nobody has one, and this client insists
	case t.Free && offered.Has(socks5.MethodNone):
		return socks5.MethodNone
	}
	return socks5.MethodNoAcceptable
}

// Login is what a request of HTTP has to be judged by, like the password methods
// of SOCKS5: where nobody has a password, one that is given anyway is not looked
// at. Nil credentials: nothing, the client is let in. The error is ErrLogin when
// there have to be some.
func (t *Terms) Login(given *httpproxy.Credentials) (authsvc.Credentials, error) {
	switch {
	case given != nil && given.Token != nil && slices.Contains(t.Ways, authsvc.KindToken):
		return authsvc.Token{Bytes: given.Token, Negotiate: true}, nil
	case given != nil && given.Token == nil && slices.Contains(t.Ways, authsvc.KindPassword):
		return authsvc.Password{User: []byte(given.User), Password: []byte(given.Password)}, nil
	case !t.Free:
		return nil, ErrLogin
	}
	return nil, nil
}

// httpRealm is what a 407 asks for.
const httpRealm = "cleversocks"

// Challenges are what a client of HTTP is asked for, the preferred way first.
func (t *Terms) Challenges() (c httpproxy.Challenges) {
	for _, kind := range t.Ways {
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
