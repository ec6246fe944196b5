package authsvc

import (
	"context"
	"hash/maphash"
	"net/netip"
)

// Certificate is a client certificate that was verified: TLS itself is the
// proof, and who holds a revoked or foreign one never comes this far.
type Certificate struct {
	// Names are those that the certificate gives its owner, the most telling
	// first: SPIFFE IDs, the common name, DNS names. There is at least one.
	Names []string
}

// Kind is KindCertificate.
func (Certificate) Kind() Kind { return KindCertificate }

// Name is the certificate's first name.
func (c Certificate) Name() string {
	if len(c.Names) == 0 {
		return ""
	}
	return c.Names[0]
}

func (c Certificate) tag(seed maphash.Seed) uint64 {
	return tagOf(seed, KindCertificate, []byte(c.Name()))
}

// Certificates lets in whoever has a verified client certificate, as the user
// of the settings that one of its names is, or else under its first name.
type Certificates struct{ users *Users }

// NewCertificates makes the authenticator, for these users.
func NewCertificates(users *Users) Certificates { return Certificates{users} }

// Method is MethodCertificate.
func (Certificates) Method() Method { return MethodCertificate }

// Accepts reports whether they are certificates.
func (Certificates) Accepts(k Kind) bool { return k == KindCertificate }

// Authenticate picks the user. Refused is one who may not come from there.
func (c Certificates) Authenticate(_ context.Context, a *Attempt) (Grant, error) {
	certificate, ok := a.Credentials.(Certificate)
	if !ok || len(certificate.Names) == 0 {
		return Grant{}, ErrCredentials
	}
	name := certificate.Names[0]
	for _, candidate := range certificate.Names {
		if c.users.Account(candidate) != nil {
			name = candidate
			break
		}
	}
	if name == "" || len(name) > MaxName {
		return Grant{}, ErrCredentials
	}
	id, err := c.Holds(Identity{User: name, Method: MethodCertificate}, a.Source)
	return Grant{Identity: id}, err
}

// Holds refuses a user of the settings who may not come from there. A
// certificate vouches for others too.
func (c Certificates) Holds(id Identity, source netip.Addr) (Identity, error) {
	account := c.users.Account(id.User)
	now := Identity{User: id.User, Method: id.Method, Account: account}
	if account == nil {
		return now, nil
	}
	now.Groups = account.Groups
	if !account.AllowsFrom(source) {
		return now, ErrCredentials
	}
	return now, nil
}
