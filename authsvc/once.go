package authsvc

import (
	"container/list"
	"context"
	"encoding/json"
	"hash/maphash"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cleversocks/metrics"
)

// Once is the auth-once table: an address that has authenticated needs no
// password for a while. Add and Lookup are synchronous, so that the very next
// connection is let in; Serve sweeps and saves. Addresses count exactly, an
// IPv6 /64 is not let in because one of its hosts was.
type Once struct {
	metrics  *metrics.Auth
	settings atomic.Pointer[OnceOptions]
	seed     maphash.Seed
	shards   [16]onceShard
	size     atomic.Int64
	sequence atomic.Uint64
	file     stateFile
}

// OnceOptions are auth.once.
type OnceOptions struct {
	TTL time.Duration // from the authentication; a later use does not prolong it
	Max int           // addresses; past it the oldest goes
}

type onceShard struct {
	mu      sync.Mutex
	entries map[netip.Addr]*list.Element // of *onceEntry
	order   list.List                    // oldest first
}

type onceEntry struct {
	OnceEntry
	sequence uint64
}

// OnceEntry is an address that is let in.
type OnceEntry struct {
	Addr  netip.Addr
	User  string // raw bytes
	By    Method // how the user authenticated
	Since time.Time
	Until time.Time

	secret **secret // what the user logged in with, as in Identity
}

// identity is the user's, as at the log-in. It is to be asked whether it
// still holds.
func (e *OnceEntry) identity() Identity {
	return Identity{User: e.User, Method: MethodOnce, By: e.By, secret: e.secret}
}

// NewOnce makes the table and reads what was saved.
func NewOnce(o OnceOptions, s StateOptions) *Once {
	t := &Once{metrics: s.Metrics, seed: maphash.MakeSeed(), file: newStateFile(s, metrics.StateOnce)}
	for i := range t.shards {
		t.shards[i].entries = map[netip.Addr]*list.Element{}
	}
	t.settings.Store(&o)
	t.file.restore, t.file.dump = t.restore, func() any { return t.saved() }
	t.file.settle()
	return t
}

// Set takes the settings of a reload. What is in the table keeps its end, but
// for what is too many.
func (t *Once) Set(o OnceOptions) {
	t.settings.Store(&o)
	t.shrink()
}

func (t *Once) shard(addr netip.Addr) *onceShard {
	return &t.shards[maphash.Comparable(t.seed, addr)%uint64(len(t.shards))]
}

// Add lets addr (unmapped) in for the TTL from now, as the user who has just
// authenticated from there.
func (t *Once) Add(addr netip.Addr, id Identity) {
	now := time.Now()
	t.insert(OnceEntry{Addr: addr, User: id.User, By: id.Method, Since: now, Until: now.Add(t.settings.Load().TTL), secret: id.secret})
}

func (t *Once) insert(e OnceEntry) {
	s := t.shard(e.Addr)
	s.mu.Lock()
	if old := s.entries[e.Addr]; old != nil {
		t.drop(s, old)
	}
	entry := &onceEntry{e, t.sequence.Add(1)}
	s.entries[e.Addr] = s.order.PushBack(entry)
	t.metrics.WhitelistSize.Store(t.size.Add(1))
	s.mu.Unlock()
	t.file.dirty.Store(true)
	t.shrink()
}

// drop removes an element of a locked shard.
func (t *Once) drop(s *onceShard, e *list.Element) {
	delete(s.entries, e.Value.(*onceEntry).Addr)
	s.order.Remove(e)
	t.metrics.WhitelistSize.Store(t.size.Add(-1))
	t.file.dirty.Store(true)
}

// shrink evicts the oldest of all shards until the table fits.
func (t *Once) shrink() {
	most := int64(t.settings.Load().Max)
	for t.size.Load() > most {
		var oldest *onceShard
		var sequence uint64
		for i := range t.shards {
			s := &t.shards[i]
			s.mu.Lock()
			if e := s.order.Front(); e != nil {
				if n := e.Value.(*onceEntry).sequence; oldest == nil || n < sequence {
					oldest, sequence = s, n
				}
			}
			s.mu.Unlock()
		}
		if oldest == nil {
			return
		}
		oldest.mu.Lock()
		if e := oldest.order.Front(); e != nil && e.Value.(*onceEntry).sequence == sequence {
			t.drop(oldest, e)
			t.metrics.WhitelistEvicted.Of(metrics.EvictedFull).Inc()
		}
		oldest.mu.Unlock()
	}
}

// Lookup is what lets addr (unmapped) in. Whether the user still may is the
// caller's to ask.
func (t *Once) Lookup(addr netip.Addr) (OnceEntry, bool) {
	s := t.shard(addr)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[addr]
	if e == nil {
		return OnceEntry{}, false
	}
	entry := e.Value.(*onceEntry)
	return entry.OnceEntry, time.Now().Before(entry.Until)
}

// List is who is let in, oldest first.
func (t *Once) List() []OnceEntry {
	now := time.Now()
	var out []OnceEntry
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for e := s.order.Front(); e != nil; e = e.Next() {
			if entry := e.Value.(*onceEntry); now.Before(entry.Until) {
				out = append(out, entry.OnceEntry)
			}
		}
		s.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b OnceEntry) int { return a.Since.Compare(b.Since) })
	return out
}

// Revoke takes an address out and reports whether it was in.
func (t *Once) Revoke(addr netip.Addr) bool {
	s := t.shard(addr)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[addr]
	if e == nil {
		return false
	}
	t.drop(s, e)
	t.metrics.WhitelistEvicted.Of(metrics.EvictedRevoked).Inc()
	return true
}

// sweep takes out what is past its end.
func (t *Once) sweep() {
	now := time.Now()
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for e := s.order.Front(); e != nil; {
			next := e.Next() // the TTL may have changed: the order is not that of the ends
			if !now.Before(e.Value.(*onceEntry).Until) {
				t.drop(s, e)
				t.metrics.WhitelistEvicted.Of(metrics.EvictedExpired).Inc()
			}
			e = next
		}
		s.mu.Unlock()
	}
}

// Serve sweeps and saves until ctx ends, then saves once more. In an upgrade
// the predecessor ends it before its successor reads the file.
func (t *Once) Serve(ctx context.Context) error {
	return serveState(ctx, &t.file, t.sweep)
}

// String names the service.
func (t *Once) String() string { return "auth-once" }

// serveState is the life of a table with a state file.
func serveState(ctx context.Context, file *stateFile, sweep func()) error {
	tick := time.NewTicker(saveInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			file.save()
			return ctx.Err()
		case <-tick.C:
			sweep()
			file.save()
		}
	}
}

type savedOnce struct {
	Addr  netip.Addr `json:"addr"`
	User  []byte     `json:"user"` // base64: names are bytes
	By    Method     `json:"by"`
	Since time.Time  `json:"since"`
	Until time.Time  `json:"until"`
}

func (t *Once) saved() []savedOnce {
	out := []savedOnce{}
	for _, e := range t.List() {
		out = append(out, savedOnce{e.Addr, []byte(e.User), e.By, e.Since, e.Until})
	}
	return out
}

// restore adds what was saved and is neither over nor replaced since.
func (t *Once) restore(payload []byte) error {
	var list []savedOnce
	if err := json.Unmarshal(payload, &list); err != nil {
		return err
	}
	now := time.Now()
	for _, e := range list {
		if _, known := t.Lookup(e.Addr); !known && e.Addr.IsValid() && now.Before(e.Until) {
			t.insert(OnceEntry{Addr: e.Addr, User: string(e.User), By: e.By, Since: e.Since, Until: e.Until})
		}
	}
	return nil
}
