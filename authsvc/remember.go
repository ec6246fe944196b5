package authsvc

import (
	"sync"
	"time"
)

// remembered knows the credentials that were right a while ago, by keyed
// hash: neither the password nor anything that can be tried offline without
// the key, which never leaves the process.
type remembered struct {
	key  []byte
	ttl  time.Duration
	most int

	mu    sync.Mutex
	until map[[32]byte]time.Time
	order []tagged // oldest first: with one TTL also the order of expiry
}

type tagged struct {
	tag   [32]byte
	until time.Time
}

func (r *remembered) tag(user, password []byte) [32]byte {
	return [32]byte(mac(r.key, user, password))
}

func (r *remembered) has(tag [32]byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	until, ok := r.until[tag]
	return ok && time.Now().Before(until)
}

func (r *remembered) add(tag [32]byte) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.order) > 0 && (len(r.order) >= r.most || !now.Before(r.order[0].until)) {
		oldest := r.order[0]
		r.order = r.order[1:]
		// A tag that was added again lives on by its later entry.
		if r.until[oldest.tag].Equal(oldest.until) {
			delete(r.until, oldest.tag)
		}
	}
	until := now.Add(r.ttl)
	r.until[tag] = until
	r.order = append(r.order, tagged{tag, until})
}
