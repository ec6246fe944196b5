// Package gssapi lets Kerberos users in: by RFC 1961 on SOCKS5, whose messages
// it then protects, and by Negotiate (RFC 4559) on HTTP. It is one
// authsvc.Authenticator, of tokens:
//
//	keytab, err := gssapi.ReadKeytab(path, nil)
//	a := gssapi.NewAcceptor(gssapi.Options{Keytab: keytab, Service: "rcmd", ...})
//
// The protocol's structures and its key derivation are the library's
// (go-krb5/krb5); the acceptor, its replay cache and the wrapped messages are
// written here.
package gssapi

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"time"

	"cleversocks/authsvc"
)

// httpService is the service of HTTP Negotiate, whatever the proxy's other
// one is called: browsers know no other.
const httpService = "HTTP"

// Options is what an Acceptor is made of.
type Options struct {
	Keytab  *Keytab
	Service string        // of SOCKS5: "rcmd"; the part of the principal before the slash
	Skew    time.Duration // between the clocks of clients and ours; 0: five minutes
	Mapping *Mapping      // nil: principals are the users, whole
	Replays *ReplayCache  // shared by all reloads
	Now     func() time.Time
}

// Acceptor is the authenticator of Kerberos tokens.
type Acceptor struct {
	keytab  *Keytab
	service string
	skew    time.Duration
	mapping *Mapping
	replays *ReplayCache
	now     func() time.Time
}

// NewAcceptor makes an Acceptor.
func NewAcceptor(o Options) *Acceptor {
	a := &Acceptor{keytab: o.Keytab, service: o.Service, skew: o.Skew, mapping: o.Mapping, replays: o.Replays, now: o.Now}
	if a.now == nil {
		a.now = time.Now
	}
	if a.skew <= 0 {
		a.skew = 5 * time.Minute
	}
	if a.mapping == nil {
		a.mapping = &Mapping{}
	}
	if a.replays == nil {
		a.replays = NewReplayCache()
	}
	return a
}

// Method is MethodGSSAPI.
func (*Acceptor) Method() authsvc.Method { return authsvc.MethodGSSAPI }

// Accepts tokens.
func (*Acceptor) Accepts(k authsvc.Kind) bool { return k == authsvc.KindToken }

// errNoTicket is a browser that knows nothing better than NTLM.
var errNoTicket = refuse(authsvc.ReasonMechanism, "the client offers no Kerberos ticket: it has none, or knows the proxy by another name")

// Authenticate judges a client's first token, which is its only one.
func (a *Acceptor) Authenticate(_ context.Context, try *authsvc.Attempt) (authsvc.Grant, error) {
	given, ok := try.Credentials.(authsvc.Token)
	if !ok {
		return authsvc.Grant{}, authsvc.ErrCredentials
	}
	token, service := given.Bytes, a.service
	var n negotiation
	if given.Negotiate {
		service = httpService
		if bytes.HasPrefix(token, []byte("NTLMSSP\x00")) {
			return authsvc.Grant{}, errNoTicket
		}
		var err error
		if n, err = parseNegotiate(token); err != nil {
			return authsvc.Grant{}, refuse(authsvc.ReasonMalformed, "%w", err)
		}
		if !n.kerberos || len(n.token) == 0 {
			return authsvc.Grant{}, errNoTicket
		}
		token = n.token
	}
	who, err := a.accept(token, service)
	if err != nil {
		return authsvc.Grant{}, err
	}
	grant := authsvc.Grant{
		Identity: authsvc.Identity{
			User: a.mapping.user(who.principal, who.realm), Groups: a.mapping.groupsOf(who.sids), Method: authsvc.MethodGSSAPI,
		},
		Reply: who.reply, Security: who.context,
	}
	if len(grant.Identity.User) > authsvc.MaxName {
		return authsvc.Grant{}, refuse(authsvc.ReasonTicket, "the principal is longer than %d bytes", authsvc.MaxName)
	}
	if given.Negotiate {
		grant.Reply = n.negotiated(who.reply)
	}
	return grant, nil
}

// Describe is the keys that clients' tickets may be for, never themselves.
func (a *Acceptor) Describe() []string {
	var lines []string
	for _, e := range a.keytab.Entries() {
		lines = append(lines, "keytab: "+e.String())
	}
	return lines
}

// UserOf is the user that a principal is mapped to; false for a name without a
// realm, which is none.
func (a *Acceptor) UserOf(principal string) (user string, ok bool) {
	i := strings.LastIndexByte(principal, '@')
	if i <= 0 || i == len(principal)-1 {
		return "", false
	}
	return a.mapping.user(principal[:i], principal[i+1:]), true
}

// Holds does not ask the KDC: an identity holds as long as there is a keytab.
func (a *Acceptor) Holds(id authsvc.Identity, _ netip.Addr) (authsvc.Identity, error) {
	return id, nil
}
