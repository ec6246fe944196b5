package authsvc

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"cleversocks/conn/netaddr"
	"cleversocks/metrics"
)

// Once is the auth-once table: an address that has authenticated needs no
// password for a while. Add and Lookup are synchronous, so that the very next
// connection is let in; Serve sweeps and saves. Addresses count exactly, an
// IPv6 /64 is not let in because one of its hosts was.
type Once struct {
	metrics  *metrics.Auth
	settings atomic.Pointer[OnceOptions]
	file     stateFile
	fleet    OnceFleet   // nil: there are no other replicas
	sealed   atomic.Bool // there were entries whose secret is a seal

	mu      sync.Mutex
	entries *simplelru.LRU[netip.Addr, *OnceEntry] // oldest log-in first
	// hosts are the addresses of each source that has more than one, which is
	// an IPv6 /64: past its share, its own oldest makes room, so that one
	// subscriber, who owns 2^64 addresses, does not push everybody out.
	hosts map[netip.Addr]*simplelru.LRU[netip.Addr, struct{}]
	// inquiries are those under way since an address was last revoked.
	inquiries map[netip.Addr]*inquiry
}

// onceShare is the part of the table that one source may fill.
const onceShare = 8

// MaxSavedOnce is the largest OnceOptions.Max whose entries, each as large as
// can be, fit into the state file.
const MaxSavedOnce = maxState / 640

// OnceOptions are auth.once.
type OnceOptions struct {
	TTL time.Duration // from the authentication; a later use does not prolong it
	Max int           // addresses; past it the oldest goes
}

// OnceEntry is an address that is let in.
type OnceEntry struct {
	Addr  netip.Addr
	User  string // raw bytes
	By    Method // how the user authenticated
	Since time.Time
	Until time.Time

	secret **secret  // what the user logged in with, as in Identity
	known  time.Time // until when the fleet lets the address in, as it was told
}

// identity is the user's, as at the log-in. It is to be asked whether it
// still holds.
func (e *OnceEntry) identity() Identity {
	return Identity{User: e.User, Method: MethodOnce, By: e.By, secret: e.secret}
}

// NewOnce makes the table and reads what was saved.
func NewOnce(o OnceOptions, s StateOptions) *Once {
	t := &Once{metrics: s.Metrics, file: newStateFile(s, metrics.StateOnce), hosts: map[netip.Addr]*simplelru.LRU[netip.Addr, struct{}]{}}
	o.Max = max(o.Max, 1)
	t.settings.Store(&o)
	t.entries = newLRU(o.Max, t.gone)
	t.file.restore, t.file.dump = t.restore, func() any { return t.saved() }
	t.file.settle()
	return t
}

// newLRU is a list that ends with its least recent elements; most is above
// zero.
func newLRU[V any](most int, gone func(netip.Addr, V)) *simplelru.LRU[netip.Addr, V] {
	l, err := simplelru.NewLRU(most, gone)
	if err != nil {
		panic(err) // only for a size below one
	}
	return l
}

// Set takes the settings of a reload. What is in the table keeps its end, cut
// to a whole TTL from now, but for what is too many.
func (t *Once) Set(o OnceOptions) {
	o.Max = max(o.Max, 1)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settings.Store(&o)
	if n := t.entries.Resize(o.Max); n > 0 {
		t.metrics.WhitelistEvicted.Of(metrics.EvictedFull).Add(n)
	}
	t.changed()
}

// changed notes that there is something to show and to save.
func (t *Once) changed() {
	t.metrics.WhitelistSize.Store(int64(t.entries.Len()))
	t.file.dirty.Store(true)
}

// gone forgets what else is known of an address that has left the table.
func (t *Once) gone(addr netip.Addr, _ *OnceEntry) {
	source := netaddr.SourceKey(addr)
	if list := t.hosts[source]; list != nil && list.Remove(addr) && list.Len() == 0 {
		delete(t.hosts, source)
	}
}

// Add lets addr (unmapped) in for the TTL from now, as the user who has just
// authenticated from there.
func (t *Once) Add(addr netip.Addr, id Identity) {
	now, ttl := time.Now(), t.settings.Load().TTL
	e := &OnceEntry{Addr: addr, User: id.User, By: id.Method, Since: now, Until: now.Add(ttl), secret: id.secret}
	if t.fleet != nil && t.isNews(e, now.Add(ttl-ttl/10)) {
		e.known = e.Until
		t.share(e)
	}
	t.insert(e, nil)
}

// isNews reports whether the fleet should hear of an entry: of most it has heard
// by an earlier log-in, and lets the address in until a time at least.
func (t *Once) isNews(e *OnceEntry, until time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	old, ok := t.entries.Peek(e.Addr)
	if !ok || old.User != e.User || old.By != e.By || !old.sameSecret(e) || old.known.Before(until) {
		return true
	}
	e.known = old.known
	return false
}

// sameSecret reports whether both logged in with the same, of which another replica
// has told no more than a seal. Where it takes a hash to compare that, they are taken
// for different: the table is locked, and to tell the fleet makes the seal.
func (e *OnceEntry) sameSecret(o *OnceEntry) bool {
	if e.secret == o.secret {
		return true
	}
	return e.secret != nil && o.secret != nil && (*e.secret).kind == kindSealed && (*o.secret).sealsAtOnce() &&
		bytes.Equal((*e.secret).sum, (*o.secret).seal(o.User))
}

// insert takes an entry in, unless the inquiry that told of it is out of date.
func (t *Once) insert(e *OnceEntry, asked *inquiry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if asked != nil && asked.outdated {
		return
	}
	if e.Addr.Is6() && !t.entries.Contains(e.Addr) {
		t.makeRoomFor(netaddr.SourceKey(e.Addr), e.Addr)
	}
	if t.entries.Add(e.Addr, e) {
		t.metrics.WhitelistEvicted.Of(metrics.EvictedFull).Inc()
	}
	t.changed()
}

// makeRoomFor notes a host of an IPv6 source, and takes out the source's
// oldest if it has more than its share.
func (t *Once) makeRoomFor(source, addr netip.Addr) {
	list := t.hosts[source]
	if list == nil {
		list = newLRU[struct{}](1<<30, nil)
		t.hosts[source] = list
	}
	if list.Len() >= max(t.settings.Load().Max/onceShare, 1) {
		oldest, _, _ := list.GetOldest()
		t.entries.Remove(oldest)
		t.metrics.WhitelistEvicted.Of(metrics.EvictedFull).Inc()
		t.hosts[source] = list // gone may have dropped it with its last
	}
	list.Add(addr, struct{}{})
}

// Lookup is what lets addr (unmapped) in. Whether the user still may is the
// caller's to ask.
func (t *Once) Lookup(addr netip.Addr) (OnceEntry, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.entries.Peek(addr)
	if !ok {
		return OnceEntry{}, false
	}
	return *e, t.valid(e, time.Now())
}

// valid reports whether an entry lets in. One that ends later than a log-in
// of now would was made under a clock that was wrong, or before a reload: it
// is cut.
func (t *Once) valid(e *OnceEntry, now time.Time) bool {
	if latest := now.Add(t.settings.Load().TTL); e.Until.After(latest) {
		e.Until = latest
		t.file.dirty.Store(true)
	}
	return now.Before(e.Until)
}

// List is who is let in, oldest first.
func (t *Once) List() []OnceEntry {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	out := make([]OnceEntry, 0, t.entries.Len())
	for _, e := range t.entries.Values() {
		if t.valid(e, now) {
			out = append(out, *e)
		}
	}
	return out
}

// Revoke takes an address out, on all replicas, and reports whether it was in
// here.
func (t *Once) Revoke(addr netip.Addr) bool {
	if t.fleet != nil {
		t.fleet.Revoked(addr, t.settings.Load().TTL)
	}
	return t.remove(addr)
}

func (t *Once) remove(addr netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.outdate(addr)
	if !t.entries.Remove(addr) {
		return false
	}
	t.metrics.WhitelistEvicted.Of(metrics.EvictedRevoked).Inc()
	t.changed()
	return true
}

// sweep takes out what is past its end.
func (t *Once) sweep() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for _, e := range t.entries.Values() { // all: the TTL may have changed in between
		if !t.valid(e, now) {
			t.entries.Remove(e.Addr)
			t.metrics.WhitelistEvicted.Of(metrics.EvictedExpired).Inc()
			t.changed()
		}
	}
}

// Serve sweeps and saves until ctx ends, then saves once more.
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
	// Secret stands for what the user logged in with; see secret.seal.
	Secret []byte `json:"secret,omitempty"`
}

func (t *Once) saved() []savedOnce {
	out := []savedOnce{}
	for _, e := range t.List() {
		out = append(out, e.saved())
	}
	return out
}

func (e *OnceEntry) saved() savedOnce {
	one := savedOnce{Addr: e.Addr, User: []byte(e.User), By: e.By, Since: e.Since, Until: e.Until}
	if e.secret != nil {
		one.Secret = (*e.secret).seal(e.User)
	}
	return one
}

// restore adds what was saved and is neither over nor replaced since.
func (t *Once) restore(payload []byte) error { return t.take(payload, teller{}) }

// teller is who tells of entries; the zero teller is the state file.
type teller struct {
	fleet bool     // another replica
	news  bool     // about a log-in of just now: what is known here is older, whatever the clocks say
	asked *inquiry // was asked; nil: it tells by itself
}

func (t *Once) take(payload []byte, told teller) error {
	var list []savedOnce
	if err := json.Unmarshal(payload, &list); err != nil {
		return err
	}
	now := time.Now()
	for _, e := range list {
		known, ok := t.Lookup(e.Addr)
		if ok && !told.news && !known.Since.Before(e.Since) || !e.Addr.IsValid() || !now.Before(e.Until) {
			continue
		}
		entry := &OnceEntry{Addr: e.Addr, User: string(e.User), By: e.By, Since: e.Since, Until: e.Until}
		if told.fleet {
			entry.known = e.Until
		}
		if entry.Since.After(now) {
			entry.Since = now // the clock was ahead
		}
		t.valid(entry, now)
		if len(e.Secret) > 0 || e.By == MethodPassword {
			sealed := &secret{scheme: scheme{kind: kindSealed}, sum: e.Secret}
			entry.secret = &sealed
			t.sealed.Store(true)
		}
		t.insert(entry, told.asked)
	}
	return nil
}
