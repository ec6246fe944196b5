// Package ratelimit bounds how much one client takes: connections by source,
// and connections and bytes by user.
//
//	gate := ratelimit.NewGate()
//	gate.Set(ratelimit.GateOptions{PerSecond: 10, Burst: 20, PerSource: 100})
//	switch gate.Enter(source) {
//	case ratelimit.Admitted:
//		defer gate.Leave(source)
//	}
package ratelimit

import (
	"hash/maphash"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gaissmai/bart"

	"cleversocks/conn/netaddr"
)

// Verdict is what a Gate or Users say of a connection, or Seats of one more of
// what they count.
type Verdict uint8

// The verdicts.
const (
	Admitted Verdict = iota
	TooFast          // more connections a second than the source may open
	TooMany          // more at a time than the source, or the user, may have
	Full             // all places are taken, whoever asks
	TooWide          // from more sources at a time than the user may come
	Unknown          // what has to say cannot be asked
)

const (
	shardCount      = 64
	sourcesPerShard = 1024
	// MaxSources bounds the rate table, to some 4 MB.
	MaxSources = shardCount * sourcesPerShard
)

// Gate limits the connections of a source: an IPv4 address or an IPv6 /64.
// Its memory is bounded by a constant and by the connections that are open,
// whatever the number of sources.
type Gate struct {
	settings atomic.Pointer[gateSettings]
	seed     maphash.Seed
	begin    time.Time // what times in the table count from
	shards   [shardCount]gateShard
}

// GateOptions are limits.connection_rate, limits.max_connections_per_ip and
// limits.exempt.
type GateOptions struct {
	PerSecond float64        // connections of a source; 0: any number
	Burst     int            // at once; at least 1
	PerSource int            // open at a time; 0: any number
	Exempt    []netip.Prefix // free of the rate, not of PerSource
	// Forgot hears of each source that lost what is known of it because
	// MaxSources others came; nil: nobody does.
	Forgot func()
}

type gateSettings struct {
	spacing   int64 // ns between two connections at the rate; 0: no limit
	tolerance int64 // ns by which connections may come too early
	perSource int
	exempt    bart.Lite
	forgot    func()
}

// gateShard holds, by source, when the next connection is due (GCRA: the
// theoretical arrival time, in ns since begin), and how many are open.
type gateShard struct {
	mu   sync.Mutex
	due  map[netip.Addr]int64
	open map[netip.Addr]int
	// elsewhere is how many other processes have; nil: there were none.
	elsewhere map[netip.Addr]int
}

// NewGate makes a gate that limits nothing until Set.
func NewGate() *Gate {
	// One hour back, so that a time of the table is never negative.
	g := &Gate{seed: maphash.MakeSeed(), begin: time.Now().Add(-time.Hour)}
	for i := range g.shards {
		g.shards[i].due, g.shards[i].open = map[netip.Addr]int64{}, map[netip.Addr]int{}
	}
	g.Set(GateOptions{})
	return g
}

// Set takes new limits; what is open stays open and counted.
func (g *Gate) Set(o GateOptions) {
	s := &gateSettings{perSource: o.PerSource, forgot: o.Forgot}
	if o.PerSecond > 0 {
		s.spacing = int64(min(max(float64(time.Second)/o.PerSecond, 1), float64(24*time.Hour)))
		burst := min(max(o.Burst, 1), math.MaxInt32)
		s.tolerance = min(s.spacing, math.MaxInt64/4/int64(burst)) * int64(burst-1)
	}
	for _, p := range o.Exempt {
		s.exempt.Insert(p.Masked())
	}
	g.settings.Store(s)
}

func (g *Gate) shard(key netip.Addr) *gateShard {
	return &g.shards[maphash.Comparable(g.seed, key)%shardCount]
}

// Enter asks for one connection from addr (unmapped). Whoever is Admitted
// owes one Leave.
func (g *Gate) Enter(addr netip.Addr) Verdict {
	settings := g.settings.Load()
	limited := settings.spacing > 0 && !settings.exempt.Contains(addr)
	key := netaddr.SourceKey(addr)
	s := g.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if settings.perSource > 0 && s.open[key]+s.elsewhere[key] >= settings.perSource {
		return TooMany
	}
	if limited && !s.take(key, int64(time.Since(g.begin)), settings) {
		return TooFast
	}
	s.open[key]++
	return Admitted
}

// Leave ends a connection that was admitted.
func (g *Gate) Leave(addr netip.Addr) {
	key := netaddr.SourceKey(addr)
	s := g.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[key]--; s.open[key] <= 0 {
		delete(s.open, key)
	}
}

// take is one step of GCRA: a connection conforms if it is not earlier than
// its due time by more than the tolerance. A refused one moves nothing.
func (s *gateShard) take(key netip.Addr, now int64, settings *gateSettings) bool {
	due := max(s.due[key], now)
	if due-now > settings.tolerance {
		return false
	}
	s.set(key, due+settings.spacing, now, settings)
	return true
}

// set says when a source's next connection is due. The caller holds the lock.
func (s *gateShard) set(key netip.Addr, due, now int64, settings *gateSettings) {
	if _, known := s.due[key]; !known && len(s.due) >= sourcesPerShard {
		if s.evict(now) && settings.forgot != nil {
			settings.forgot()
		}
	}
	s.due[key] = due
}

// evict forgets one source of a few that the map's order picks: one that is
// due, which is as good as absent, or else the one that is due first, which
// loses what it owes.
func (s *gateShard) evict(now int64) (lost bool) {
	var victim netip.Addr
	earliest := int64(math.MaxInt64)
	looked := 0
	for key, due := range s.due {
		if due < earliest {
			victim, earliest = key, due
		}
		if looked++; looked == 16 || due <= now {
			break
		}
	}
	delete(s.due, victim)
	return earliest > now
}
