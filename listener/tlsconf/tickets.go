package tlsconf

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
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
	since   time.Time  // it does
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
	t.since = time.Now()
	t.secrets = append([][32]byte{fresh}, t.secrets[:min(len(t.secrets), 1)]...)
	for _, u := range t.users {
		t.give(u)
	}
}

// left is how long the key that seals has until the next one.
func (t *tickets) left() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return min(time.Until(t.since.Add(ticketLife)), ticketLife) // the clock may have been set back
}

// Secret is a key of tickets for a successor.
type Secret struct {
	Key   []byte    `json:"key"`
	Since time.Time `json:"since"` // the first one seals
}

func (t *tickets) list() (all []Secret) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, secret := range t.secrets {
		all = append(all, Secret{secret[:], t.since})
	}
	return all
}

// errSecrets is a list that is none of ours.
var errSecrets = errors.New("these are no keys of tickets")

// restore takes a predecessor's keys in the place of those here, which have sealed
// nothing yet.
func (t *tickets) restore(all []Secret) error {
	if len(all) == 0 || len(all) > 2 {
		return errSecrets
	}
	secrets := make([][32]byte, len(all))
	for i, s := range all {
		if len(s.Key) != len(secrets[i]) {
			return errSecrets
		}
		copy(secrets[i][:], s.Key)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.secrets, t.since = secrets, all[0].Since
	for _, u := range t.users {
		t.give(u)
	}
	return nil
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
