package gssapi

import (
	"bytes"
	"context"
	"encoding/json"
	"sync"
	"time"

	"cleversocks/authsvc"
	"cleversocks/metrics"
)

// ReplayCache knows the authenticators of a while ago, so that none is taken
// twice: not by two connections at the same moment either. Only what was
// decrypted with a ticket's key gets in, so that strangers cannot fill it.
type ReplayCache struct {
	most int
	now  func() time.Time

	keeper *authsvc.Keeper // nil: in memory only

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

// KeepReplays makes a cache that is saved: a successor takes no message that
// its predecessor has taken. It is a service.
func KeepReplays(s authsvc.StateOptions) *ReplayCache {
	c := NewReplayCache()
	c.keeper = authsvc.NewKeeper(metrics.StateReplay, s, c.restore, c.dump, func() {})
	return c
}

// Serve saves until ctx ends, and once more then.
func (c *ReplayCache) Serve(ctx context.Context) error { return c.keeper.Serve(ctx) }

// String names the service.
func (c *ReplayCache) String() string { return "replay cache" }

// savedReplay is an authenticator that was taken.
type savedReplay struct {
	ID    []byte `json:"id"`
	Until int64  `json:"until"` // seconds since 1970
}

func (c *ReplayCache) dump() any {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, out := c.now(), []savedReplay{}
	for id, until := range c.seen {
		if !now.After(until) {
			out = append(out, savedReplay{bytes.Clone(id[:]), until.Unix() + 1})
		}
	}
	return out
}

func (c *ReplayCache) restore(payload []byte) error {
	var list []savedReplay
	if err := json.Unmarshal(payload, &list); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range list {
		if until := time.Unix(e.Until, 0); len(e.ID) == 32 && len(c.seen) < c.most && !c.now().After(until) {
			c.seen[[32]byte(e.ID)] = until
		}
	}
	return nil
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
	if c.keeper != nil {
		c.keeper.Changed()
	}
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
