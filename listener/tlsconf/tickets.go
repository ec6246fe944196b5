package tlsconf

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"slices"
	"sync"
	"time"
)

// ticketLife is how long one key seals new tickets. It opens them for as long
// again: a stolen key opens at most two of these periods (RFC 8446 appendix
// F.2 and RFC 5077 §5.5 ask for keys that change).
const ticketLife = 12 * time.Hour

// tickets are the keys of session tickets, which all doors share: a client that
// comes back saves a handshake's signature.
type tickets struct {
	mu      sync.Mutex
	secrets [][32]byte // the first one seals
	users   []ticketUser
}

// ticketUser is a configuration that opens and seals tickets.
type ticketUser struct {
	config *tls.Config
	scope  [32]byte
}

// newTickets makes the first key.
func newTickets() *tickets {
	t := &tickets{}
	t.rotate()
	return t
}

// use gives a configuration the keys of its scope, now and when they change.
func (t *tickets) use(c *tls.Config, scope []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	u := ticketUser{config: c, scope: sha256.Sum256(scope)}
	t.users = append(t.users, u)
	t.give(u)
}

// give sets a user's keys. The caller holds the lock.
func (t *tickets) give(u ticketUser) {
	keys := make([][32]byte, len(t.secrets))
	for i, secret := range t.secrets {
		mac := hmac.New(sha256.New, secret[:])
		mac.Write(u.scope[:])
		mac.Sum(keys[i][:0])
	}
	u.config.SetSessionTicketKeys(keys)
}

// rotate makes a new key, and keeps the one before.
func (t *tickets) rotate() {
	t.mu.Lock()
	defer t.mu.Unlock()
	var fresh [32]byte
	_, _ = rand.Read(fresh[:]) // never fails
	t.secrets = append([][32]byte{fresh}, t.secrets[:min(len(t.secrets), 1)]...)
	for _, u := range t.users {
		t.give(u)
	}
}

// forget ends the changes for configurations that no new connection gets.
func (t *tickets) forget(configs ...*tls.Config) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := t.users[:0]
	for _, u := range t.users {
		if !slices.Contains(configs, u.config) {
			kept = append(kept, u)
		}
	}
	clear(t.users[len(kept):])
	t.users = kept
}

// String keeps the keys out of logs.
func (t *tickets) String() string { return "tls tickets" }

// GoString keeps the keys out of %#v.
func (t *tickets) GoString() string { return t.String() }
