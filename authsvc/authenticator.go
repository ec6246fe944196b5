package authsvc

import (
	"context"
	"encoding/binary"
	"hash/maphash"
	"net/netip"
)

// Authenticator is one way to log in: the users of the settings, Kerberos,
// certificates, a directory, a web service. To add one, write a package that
// implements it and add one line to the list that supervisor builds; codecs,
// accounting, bans, auth-once and revocation then know it.
//
// An Authenticator belongs to one generation of the settings: it never
// changes, and a reload makes a new one. Its methods are called by many
// connections at a time.
type Authenticator interface {
	// Method is what logs and metrics call a log-in by it. No two in a list
	// share one.
	Method() Method
	// Accepts reports whether it judges credentials of that kind.
	Accepts(Kind) bool
	// Authenticate judges an attempt whose credentials are of a kind that it
	// accepts. It may block until ctx ends. Its error is a *Refusal, or ctx's.
	// It keeps nothing of the attempt, whose secrets the caller clears.
	//
	// An authenticator fills in user, groups and method; the account of that
	// user, with its limits, is added by Admission.
	Authenticate(ctx context.Context, a *Attempt) (Grant, error)
	// Holds is the identity, which came from here or from here in an earlier
	// generation, as the settings of this one see it. With a *Refusal it is
	// what is known of the user all the same, or the zero Identity. It does
	// not block.
	Holds(id Identity, source netip.Addr) (Identity, error)
}

// Kind is the form of credentials.
type Kind string

// The forms of credentials. A failure is logged with its kind as the method:
// which of several authenticators would have known the user, nobody knows.
const (
	KindPassword    Kind = "password"    // Password
	KindUserID      Kind = "socks4"      // UserID
	KindToken       Kind = "gssapi"      // Token
	KindCertificate Kind = "certificate" // Certificate
	KindPeer        Kind = "unix"        // Peer
)

// Kinds are all of them.
func Kinds() []Kind { return []Kind{KindPassword, KindUserID, KindToken, KindCertificate, KindPeer} }

// Credentials are what a client proves itself with: one of Password, UserID,
// Token, Certificate and Peer. They print as nothing.
type Credentials interface {
	Kind() Kind
	// Name is the user that the client says it is, raw bytes, for the log;
	// "" when the credentials don't say.
	Name() string
	// tag stands for them among the tries of one source.
	tag(maphash.Seed) uint64
}

// Password is RFC 1929, or HTTP Basic. Both are raw bytes as sent.
type Password struct{ User, Password []byte }

// Token is a client's token of GSSAPI.
type Token struct {
	Bytes     []byte
	Negotiate bool // of HTTP Negotiate (RFC 4559), not of SOCKS5 (RFC 1961)
}

// UserID is what a SOCKS4 client calls itself. Nothing proves it.
type UserID string

// Attempt is one try to log in.
type Attempt struct {
	Credentials Credentials
	Source      netip.Addr // unmapped; invalid: a client on a unix socket
	Local       netip.Addr // that client, as netaddr.LocalUser; invalid: nobody is counted
	Listener    string     // its name
	// Optional: the client is let in either way, so a refusal is not counted.
	Optional bool
	// suspicion counts the failures that the source has lately; nil: none. Who
	// has fewer is served first when many wait.
	suspicion func() int
	// What Recall leaves to Verify: it has been asked, and the source's try that
	// is in line or in flight; nil: none is, yet.
	recalled bool
	line     *Try
}

// counted is the source that failures count for; invalid: there is none.
func (a *Attempt) counted() netip.Addr {
	if a.Source.IsValid() {
		return a.Source
	}
	return a.Local
}

// Grant is a successful attempt.
type Grant struct {
	Identity Identity
	// Reply is what the client is sent with its success, if the credentials
	// were a token that wants an answer.
	Reply []byte
	// Security protects what follows, if the log-in agreed on keys; else nil.
	Security Security
}

// Security protects the messages that follow a log-in. Its methods may be
// called at the same time.
type Security interface {
	// Wrap appends the token of a message to dst; seal encrypts it.
	Wrap(dst, message []byte, seal bool) []byte
	// Unwrap is the message of a token, in the token's own memory, and whether
	// it was sealed.
	Unwrap(token []byte) (message []byte, sealed bool, err error)
	// Overhead is how many bytes a token has more than its message.
	Overhead(seal bool) int
	// Datagrams lets messages be lost and overtake each other from here on.
	Datagrams()
}

// Kind is KindToken.
func (Token) Kind() Kind { return KindToken }

// Name is nobody's: the token has to be decrypted first.
func (Token) Name() string { return "" }

func (t Token) tag(seed maphash.Seed) uint64 { return tagOf(seed, KindToken, t.Bytes) }

// String keeps the token out of logs.
func (Token) String() string { return "(token)" }

// GoString keeps the token out of %#v.
func (Token) GoString() string { return "(token)" }

// Kind is KindPassword.
func (Password) Kind() Kind { return KindPassword }

// Name is the user.
func (p Password) Name() string { return string(p.User) }

func (p Password) tag(seed maphash.Seed) uint64 { return tagOf(seed, KindPassword, p.User, p.Password) }

// tagOf tells credentials apart, and nothing else about them.
func tagOf(seed maphash.Seed, kind Kind, parts ...[]byte) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	h.WriteString(string(kind))
	for _, p := range parts {
		var length [4]byte
		binary.LittleEndian.PutUint32(length[:], uint32(len(p)))
		h.Write(length[:])
		h.Write(p)
	}
	return h.Sum64()
}

// String keeps the secret out of logs.
func (Password) String() string { return "(password)" }

// GoString keeps the secret out of %#v.
func (Password) GoString() string { return "(password)" }

// Kind is KindUserID.
func (UserID) Kind() Kind { return KindUserID }

// Name is the user id.
func (u UserID) Name() string { return string(u) }

func (u UserID) tag(seed maphash.Seed) uint64 { return tagOf(seed, KindUserID, []byte(u)) }
