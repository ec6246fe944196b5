package authsvc

import (
	"cmp"
	"context"
	"hash/maphash"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gaissmai/bart"

	"cleversocks/conn/netaddr"
	"cleversocks/metrics"
)

// Throttle bans the sources of failed authentications, longer each time. A
// source is an IPv4 address, an IPv6 /64, or a netaddr.LocalUser, who is this
// machine's and whom other replicas do not hear of. Memory is bounded whatever the
// number of sources. A request without credentials is no failure.
type Throttle struct {
	metrics  *metrics.Auth
	settings atomic.Pointer[throttleSettings]
	seed     maphash.Seed
	shards   [throttleShards]throttleShard
	bans     atomic.Int64 // sources with a ban, over or not, that is not forgotten
	file     stateFile
	fleet    BanFleet  // nil: there are no other replicas
	banned   func(Ban) // hears of bans that nobody imposed; nil: nobody does
}

const (
	throttleShards = 64
	// sourcesPerShard bounds the table to 65,536 sources, some 10 MB.
	sourcesPerShard = 1024
	// maxFailures bounds what is kept of one source.
	maxFailures = 100
)

// ThrottleOptions are limits.auth_failures and limits.exempt.
type ThrottleOptions struct {
	Max    int           // failures within Window that bring a ban; 0: none. Past 100 counts as 100
	Window time.Duration // 0: a minute
	Ban    time.Duration // the first ban; 0: a minute
	BanMax time.Duration // where doubling ends
	Exempt []netip.Prefix
}

type throttleSettings struct {
	ThrottleOptions
	exempt bart.Lite
}

type throttleShard struct {
	mu      sync.Mutex
	sources map[netip.Addr]*offender
}

// offender is what is known of a source.
type offender struct {
	failures []failure       // of the last minute or the window, oldest first
	tries    map[uint64]*Try // in flight or waiting, by the tag of their credentials
	waiting  []*Try          // of those, the ones that wait, oldest first
	flight   int             // the number of the others
	level    int             // bans so far, those long past forgotten
	since    time.Time       // of the ban
	until    time.Time       // of the ban; zero: never banned
	by       string          // the replica that banned it; "": this one
}

// failure is one wrong try.
type failure struct {
	at  time.Time
	tag uint64 // of the credentials
}

// Ban is a source that is kept out, or an event for the log.
type Ban struct {
	Source   netip.Prefix // a /32, or a /64 of IPv6: see netaddr.SourceText
	Since    time.Time
	Until    time.Time
	Level    int // 1 for the first
	Failures int // within the window, that brought it; 0 in a list
	// Replica made it; "": this one.
	Replica string
}

// Duration is how long the ban is.
func (b Ban) Duration() time.Duration { return b.Until.Sub(b.Since) }

// NewThrottle makes the table and reads the bans that were saved.
func NewThrottle(o ThrottleOptions, s StateOptions) *Throttle {
	t := &Throttle{metrics: s.Metrics, seed: maphash.MakeSeed(), file: newStateFile(s, metrics.StateBans)}
	for i := range t.shards {
		t.shards[i].sources = map[netip.Addr]*offender{}
	}
	t.Set(o)
	t.file.restore, t.file.dump = t.restore, func() any { return t.saved() }
	t.file.settle()
	return t
}

// Set takes the settings of a reload; running bans go on, cut to the longest
// there is now, but for sources that are exempt now.
func (t *Throttle) Set(o ThrottleOptions) {
	o.Max = min(o.Max, maxFailures)
	o.Window = cmp.Or(max(o.Window, 0), time.Minute)
	o.Ban = cmp.Or(max(o.Ban, 0), time.Minute)
	o.BanMax = max(o.BanMax, o.Ban)
	s := &throttleSettings{ThrottleOptions: o}
	for _, p := range o.Exempt {
		s.exempt.Insert(p.Masked())
	}
	t.settings.Store(s)
}

func (t *Throttle) shard(key netip.Addr) *throttleShard {
	return &t.shards[maphash.Comparable(t.seed, key)%throttleShards]
}

// Banned reports whether a connection from addr (unmapped) is to be closed at
// accept. It costs an atomic load while nobody is banned.
func (t *Throttle) Banned(addr netip.Addr) bool {
	if t.bans.Load() == 0 {
		return false
	}
	settings := t.settings.Load()
	if settings.Max <= 0 || settings.exempt.Contains(addr) {
		return false
	}
	key := netaddr.SourceKey(addr)
	s := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.sources[key]
	return o != nil && o.banned(time.Now(), settings)
}

// offender is what is known of a source, in a locked shard.
func (t *Throttle) offender(s *throttleShard, key netip.Addr, now time.Time, settings *throttleSettings) *offender {
	o := s.sources[key]
	if o == nil {
		t.makeRoom(s, now, settings)
		o = &offender{}
		s.sources[key] = o
	}
	if o.level > 0 && o.forgotten(now, settings) {
		t.unban(o)
		o.level = 0
	}
	return o
}

// count adds a failure and bans the source if it was one too many; the zero
// Ban if not.
func (t *Throttle) count(key netip.Addr, o *offender, tag uint64, now time.Time, settings *throttleSettings) Ban {
	if settings.Max <= 0 || o.banned(now, settings) || o.repeats(tag, now) {
		return Ban{}
	}
	kept := now.Add(-max(settings.Window, repeatWindow))
	o.failures = slices.DeleteFunc(o.failures, func(f failure) bool { return !f.at.After(kept) })
	if len(o.failures) == maxFailures {
		o.failures = slices.Delete(o.failures, 0, 1)
	}
	o.failures = append(o.failures, failure{now, tag})
	var ban Ban
	if o.recent(now, settings) >= settings.Max {
		ban = t.ban(key, o, now, settings)
	}
	if t.fleet != nil && !netaddr.IsLocalUser(key) {
		t.fleet.Failed(key, settings.ThrottleOptions, ban)
	}
	if t.banned != nil && !ban.Until.IsZero() {
		t.banned(ban)
	}
	return ban
}

func (t *Throttle) ban(key netip.Addr, o *offender, now time.Time, settings *throttleSettings) Ban {
	length := settings.Ban
	for range o.level {
		if length >= settings.BanMax/2 {
			length = settings.BanMax
			break
		}
		length *= 2
	}
	t.unban(o)
	b := Ban{Source: netaddr.SourcePrefix(key), Since: now, Until: now.Add(length), Level: o.level + 1, Failures: o.recent(now, settings)}
	o.failures, o.level, o.since, o.until, o.by = nil, b.Level, b.Since, b.Until, ""
	t.bans.Add(1)
	t.metrics.BansActive.Add(1)
	t.metrics.Bans.Inc()
	t.file.dirty.Store(true)
	return b
}

// unban takes a ban off the count; the gauge of active ones is corrected by
// the next sweep, as for those that end by themselves.
func (t *Throttle) unban(o *offender) {
	if o.until.IsZero() {
		return
	}
	o.since, o.until = time.Time{}, time.Time{}
	t.bans.Add(-1)
	t.file.dirty.Store(true)
}

// banned reports whether the source is kept out. A ban beyond the longest
// there is was made under a clock that was wrong, or before a reload: it is
// cut.
func (o *offender) banned(now time.Time, s *throttleSettings) bool {
	if longest := now.Add(s.BanMax); o.until.After(longest) {
		o.until = longest
	}
	return now.Before(o.until)
}

// recent is how many failures are within the window.
func (o *offender) recent(now time.Time, s *throttleSettings) (n int) {
	begin := now.Add(-s.Window)
	for _, f := range o.failures {
		if f.at.After(begin) {
			n++
		}
	}
	return n
}

// repeats reports whether the credentials are known to be wrong.
func (o *offender) repeats(tag uint64, now time.Time) bool {
	begin := now.Add(-repeatWindow)
	return slices.ContainsFunc(o.failures, func(f failure) bool { return f.tag == tag && f.at.After(begin) })
}

// forgotten reports whether the next ban is a first one again: when the last
// is over for as long as the longest ban.
func (o *offender) forgotten(now time.Time, s *throttleSettings) bool {
	return now.After(o.until.Add(s.BanMax))
}

// idle reports whether nothing is lost when o is.
func (o *offender) idle(now time.Time, s *throttleSettings) bool {
	kept := now.Add(-max(s.Window, repeatWindow))
	return !o.busy() && (len(o.failures) == 0 || !o.failures[len(o.failures)-1].at.After(kept)) && o.forgotten(now, s)
}

// busy reports whether tries of the source are under way.
func (o *offender) busy() bool { return len(o.tries) > 0 }

// makeRoom evicts from a full shard the least of a few: idle ones, then those
// never banned, then the ban that ends first. A flood of sources can make it
// forget, never grow; but for those with tries under way, each of which is a
// connection.
func (t *Throttle) makeRoom(s *throttleShard, now time.Time, settings *throttleSettings) {
	if len(s.sources) < sourcesPerShard {
		return
	}
	var victim netip.Addr
	var least *offender
	looked := 0
	for key, o := range s.sources { // a random few, by the map's order
		if o.busy() {
			continue
		}
		if least == nil || o.until.Before(least.until) || o.idle(now, settings) {
			victim, least = key, o
		}
		if looked++; looked == 16 || least.idle(now, settings) {
			break
		}
	}
	if least == nil {
		return
	}
	t.unban(least)
	delete(s.sources, victim)
	t.metrics.ThrottleEvicted.Inc()
}

// Bans is who is kept out, the soonest free first.
func (t *Throttle) Bans() []Ban {
	now, settings := time.Now(), t.settings.Load()
	var out []Ban
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for key, o := range s.sources {
			if o.banned(now, settings) {
				out = append(out, Ban{Source: netaddr.SourcePrefix(key), Since: o.since, Until: o.until, Level: o.level, Replica: o.by})
			}
		}
		s.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b Ban) int {
		return cmp.Or(a.Until.Compare(b.Until), a.Source.Addr().Compare(b.Source.Addr()))
	})
	return out
}

// Lift ends the ban of addr's source, on all replicas, forgets its failures,
// and reports whether it was banned here.
func (t *Throttle) Lift(addr netip.Addr) bool {
	if t.fleet != nil && !netaddr.IsLocalUser(addr) {
		t.fleet.Lifted(netaddr.SourceKey(addr))
	}
	return t.Forget(addr)
}

// Forget is Lift on this replica.
func (t *Throttle) Forget(addr netip.Addr) bool {
	key := netaddr.SourceKey(addr)
	s := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.sources[key]
	if o == nil {
		return false
	}
	banned := time.Now().Before(o.until)
	if banned {
		t.metrics.BansActive.Add(-1)
	}
	t.unban(o)
	if o.failures, o.level = nil, 0; !o.busy() {
		delete(s.sources, key)
	}
	return banned
}

// sweep forgets what no longer counts.
func (t *Throttle) sweep() {
	now, settings := time.Now(), t.settings.Load()
	active := int64(0)
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for key, o := range s.sources {
			switch {
			case o.idle(now, settings):
				t.unban(o)
				delete(s.sources, key)
			case o.banned(now, settings):
				active++
			}
		}
		s.mu.Unlock()
	}
	t.metrics.BansActive.Store(active)
}

// Serve sweeps and saves until ctx ends, then saves once more.
func (t *Throttle) Serve(ctx context.Context) error {
	return serveState(ctx, &t.file, t.sweep)
}

// String names the service.
func (t *Throttle) String() string { return "auth throttle" }
