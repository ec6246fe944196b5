package authsvc

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// remembered knows the credentials that were right a while ago, by keyed
// hash: neither the password nor anything that can be tried offline without
// the key, which never leaves the process. All generations of the users share
// it.
type remembered struct {
	key *macKey
	ttl time.Duration

	mu    sync.Mutex
	until *simplelru.LRU[[32]byte, time.Time]
}

// newRemembered remembers most credentials, each for ttl.
func newRemembered(ttl time.Duration, most int) *remembered {
	until, err := simplelru.NewLRU[[32]byte, time.Time](most, nil)
	if err != nil {
		panic(err) // most is a constant above zero
	}
	return &remembered{key: newKey(), ttl: ttl, until: until}
}

// tag stands for a user's password together with what it was checked against,
// so that a change of the latter forgets it. entry may be nil.
func (r *remembered) tag(name, password []byte, entry *user) [32]byte {
	var salt, sum []byte
	if entry != nil {
		salt, sum = entry.secret.salt, entry.secret.sum
	}
	return r.key.mac(name, password, salt, sum)
}

func (r *remembered) has(tag [32]byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	until, ok := r.until.Get(tag)
	return ok && time.Now().Before(until)
}

func (r *remembered) add(tag [32]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.until.Add(tag, time.Now().Add(r.ttl))
}
