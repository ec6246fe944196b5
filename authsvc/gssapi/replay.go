package gssapi

import (
	"sync"
	"time"
)

// ReplayCache knows the authenticators of a while ago, so that none is taken
// twice: not by two connections at the same moment either. Only what was
// decrypted with a ticket's key gets in, so that strangers cannot fill it.
type ReplayCache struct {
	most int
	now  func() time.Time

	mu   sync.Mutex
	seen map[[32]byte]time.Time // until when
	next time.Time              // of the next look for what is over
}

// replayMost bounds the cache, to some 60 MB.
const replayMost = 1 << 19

// NewReplayCache makes an empty cache. It outlives reloads.
func NewReplayCache() *ReplayCache {
	return &ReplayCache{most: replayMost, now: time.Now, seen: map[[32]byte]time.Time{}}
}

// The outcomes of ReplayCache.add.
type replayOutcome uint8

const (
	replayNew replayOutcome = iota
	replaySeen
	replayFull // a cache that forgot would let in again
)

// add notes an authenticator until a time, when its clock time alone refuses
// it.
func (c *ReplayCache) add(id [32]byte, until time.Time) replayOutcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if !now.Before(c.next) {
		c.sweep(now)
	}
	if _, known := c.seen[id]; known {
		return replaySeen
	}
	if len(c.seen) >= c.most {
		return replayFull
	}
	c.seen[id] = until
	return replayNew
}

// replayLook is how often the cache is looked through.
const replayLook = 10 * time.Second

func (c *ReplayCache) sweep(now time.Time) {
	c.next = now.Add(replayLook)
	for id, until := range c.seen {
		if now.After(until) {
			delete(c.seen, id)
		}
	}
}

// Len is how many authenticators are known.
func (c *ReplayCache) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.seen)
}
