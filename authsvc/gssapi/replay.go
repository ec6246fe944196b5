package gssapi

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"sync"
	"time"

	"cleversocks/authsvc"
	"cleversocks/metrics"
)

// ReplayCache knows the authenticators of a while ago, so that none is taken
// twice: not by two connections at the same moment either. Only what was
// decrypted with a ticket's key gets in, so that strangers cannot fill it, and
// one client alone cannot fill more than half of it.
//
// It is the process's own: proxies that share a keytab do not hear of each
// other's, as with every program. Its keeper saves it in state.directory, and has
// it for a successor.
type ReplayCache struct {
	most int
	now  func() time.Time

	keeper *authsvc.Keeper // nil: in memory only

	mu      sync.Mutex
	seen    map[[32]byte]taken
	clients map[uint64]int // authenticators of each
	next    time.Time      // of the next look for what is over
	skew    time.Duration  // the last one, which says how long they are kept
	floor   time.Time      // older ones may be forgotten already
}

// taken is an authenticator that was taken.
type taken struct {
	until  int64  // nanoseconds since 1970, when its time alone refuses it
	client uint64 // whose it is
}

// The bounds of the cache: some 60 MB; and of one client's part of it, once
// half of it is used.
const (
	replayMost  = 1 << 19
	replayShare = 16
)

// NewReplayCache makes an empty cache. It outlives reloads.
func NewReplayCache() *ReplayCache {
	return &ReplayCache{most: replayMost, now: time.Now, seen: map[[32]byte]taken{}, clients: map[uint64]int{}}
}

// KeepReplays makes a cache that is saved: a successor takes no message that
// its predecessor has taken. It is a service.
func KeepReplays(s authsvc.StateOptions) *ReplayCache {
	c := NewReplayCache()
	c.keeper = authsvc.NewKeeper(metrics.StateReplay, s, c.restore, func() any { return c.dump() }, func() {})
	return c
}

// Serve saves until ctx ends, and once more then.
func (c *ReplayCache) Serve(ctx context.Context) error { return c.keeper.Serve(ctx) }

// Table is the cache for a successor.
func (c *ReplayCache) Table() authsvc.Table { return c.keeper.Table() }

// String names the service.
func (c *ReplayCache) String() string { return "replay cache" }

// savedReplay is an authenticator that was taken.
type savedReplay struct {
	ID     []byte `json:"id"`
	Until  int64  `json:"until"` // seconds since 1970
	Client uint64 `json:"client,omitempty"`
}

func (c *ReplayCache) dump() []savedReplay {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, out := c.now().UnixNano(), []savedReplay{}
	for id, t := range c.seen {
		if now <= t.until {
			out = append(out, savedReplay{bytes.Clone(id[:]), time.Unix(0, t.until).Unix() + 1, t.client})
		}
	}
	return out
}

// restore adds what another cache's dump has, a predecessor's too, at any time
// and any number of times, to what is there. On an error it adds nothing.
func (c *ReplayCache) restore(saved []byte) error {
	var list []savedReplay
	if err := json.Unmarshal(saved, &list); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now().UnixNano()
	for _, e := range list {
		until := time.Unix(e.Until, 0).UnixNano()
		if len(e.ID) != 32 || len(c.seen) >= c.most || now > until {
			continue
		}
		if _, known := c.seen[[32]byte(e.ID)]; !known {
			c.seen[[32]byte(e.ID)] = taken{until, e.Client}
			c.clients[e.Client]++
		}
	}
	return nil
}

// authenticator is what the cache knows of one.
type authenticator struct {
	id, client [32]byte
	at         time.Time // the client's
}

// The outcomes of ReplayCache.add.
type replayOutcome uint8

const (
	replayNew replayOutcome = iota
	replaySeen
	replayFull // a cache that forgot would let in again
	replayForgotten
)

// add notes an authenticator until its clock time alone refuses it, by the
// skew that is allowed.
func (c *ReplayCache) add(a authenticator, skew time.Duration) replayOutcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	c.keepFor(skew, now)
	if !now.Before(c.next) {
		c.sweep(now)
	}
	if _, known := c.seen[a.id]; known {
		return replaySeen
	}
	client := binary.BigEndian.Uint64(a.client[:])
	switch {
	case a.at.Before(c.floor):
		return replayForgotten
	case len(c.seen) >= c.most, len(c.seen) >= c.most/2 && c.clients[client] >= c.most/replayShare:
		return replayFull
	}
	c.seen[a.id] = taken{a.at.Add(skew).UnixNano(), client}
	c.clients[client]++
	if c.keeper != nil {
		c.keeper.Changed()
	}
	return replayNew
}

// keepFor notes the skew that a reload has changed. When it was raised, what
// was taken before is forgotten too early: anything as old as that is refused
// from here on.
func (c *ReplayCache) keepFor(skew time.Duration, now time.Time) {
	if c.skew > 0 && skew > c.skew {
		c.floor = now.Add(-c.skew)
	}
	c.skew = skew
}

// replayLook is how often the cache is looked through.
const replayLook = 10 * time.Second

func (c *ReplayCache) sweep(now time.Time) {
	c.next = now.Add(replayLook)
	for id, t := range c.seen {
		if now.UnixNano() <= t.until {
			continue
		}
		delete(c.seen, id)
		if c.clients[t.client]--; c.clients[t.client] <= 0 {
			delete(c.clients, t.client)
		}
	}
}
