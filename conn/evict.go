package conn

import (
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"cleversocks/conn/cause"
	"cleversocks/conn/netaddr"
	"cleversocks/conn/relay"
	"cleversocks/metrics"
)

// When all places are taken, a new connection evicts a handshake that waits for
// its client, as with sshd's MaxStartups. Otherwise one address with nothing to
// say could keep all others out, as long as it renews its connections.
const (
	// crowdShare and crowdLeast say which sources are a crowd: those with an
	// eighth of all places in handshakes, and at least eight. The oldest handshake
	// of a crowd is evicted whatever its age.
	crowdShare = 8
	crowdLeast = 8
	// evictAge is the time that the handshakes of other sources have in any case:
	// an honest one takes no longer on a slow line.
	evictAge = 2 * time.Second
	// evictLook bounds how many sources are compared with the one that was last
	// seen to have the most. A flood of many sources costs no more than that.
	evictLook = 64
	// leavingMost bounds the handshakes that are evicted and have not ended yet.
	// So many connections may exist beyond the limit for a moment.
	leavingMost = 64
	// evictLog is the least time between two lines of the log about evictions.
	evictLog = time.Minute
)

// errEvicted ends a handshake for the sake of somebody else's.
var errEvicted = fmt.Errorf("all places are taken: the oldest handshake of its source gave way: %w",
	&relay.EndError{Cause: cause.HandshakeTimeout})

// handshakes knows the handshakes that are under way, by source and in the order
// in which they came. The zero value is ready.
type handshakes struct {
	mu      sync.Mutex
	sources map[netip.Addr]*handshakeSource
	most    *handshakeSource // is the source that was last seen to have more than others
	spare   *handshakeSource // is one that has none, to use again: with a source's only handshake it comes and goes
	leaving int              // counts those that are evicted and have not ended
	logged  time.Time        // is when the last line was written
	silent  uint64           // counts evictions since then
}

// handshakeSource is a source with handshakes: an IPv4 address, an IPv6 /64 or a
// local user.
type handshakeSource struct {
	source         netip.Addr
	oldest, newest *session // the ends of a list; nil: it is the spare one
	count          int
}

// began is for a session that has its context, and shakes hands from now on.
func (h *handshakes) began(s *session) {
	key := netaddr.SourceKey(s.source())
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.evicted { // while its door told its client: it would count as leaving twice
		return
	}
	of := h.sources[key]
	if of == nil {
		if h.sources == nil {
			h.sources = make(map[netip.Addr]*handshakeSource)
		}
		if of, h.spare = h.spare, nil; of == nil {
			of = new(handshakeSource)
		}
		of.source, h.sources[key] = key, of
	}
	of.add(s)
	if h.most == nil || of.count > h.most.count {
		h.most = of
	}
}

// requested is for a session that has its request: it gives way no more.
func (h *handshakes) requested(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forget(s)
}

// ended is for every session that ends.
func (h *handshakes) ended(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forget(s)
	if s.evicted {
		h.leaving--
	}
}

// moved is for a session whose client the door has told.
func (h *handshakes) moved(s *session) {
	h.requested(s)
	h.began(s)
}

// forget takes a session off its source's list.
func (h *handshakes) forget(s *session) {
	of := s.handshakes
	if of == nil {
		return
	}
	of.remove(s)
	if of.count > 0 {
		return
	}
	delete(h.sources, of.source)
	if h.most == of {
		h.most = nil
	}
	h.spare = of
}

func (o *handshakeSource) add(s *session) {
	s.handshakes, s.older, s.newer = o, o.newest, nil
	if o.newest == nil {
		o.oldest = s
	} else {
		o.newest.newer = s
	}
	o.newest = s
	o.count++
}

func (o *handshakeSource) remove(s *session) {
	if s.older == nil {
		o.oldest = s.newer
	} else {
		s.older.newer = s.newer
	}
	if s.newer == nil {
		o.newest = s.older
	} else {
		s.newer.older = s.older
	}
	s.handshakes, s.older, s.newer = nil, nil, nil
	o.count--
}

// evict chooses the oldest session of the source with the most handshakes, which
// the caller has to cancel. Nil: there is none that may be evicted.
func (h *handshakes) evict(places int64) (victim *session, of netip.Addr, handshakes int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.leaving >= leavingMost {
		return nil, netip.Addr{}, 0
	}
	most, looked := h.most, 0
	for _, each := range h.sources {
		if most == nil || each.count > most.count ||
			each.count == most.count && each.oldest.started.Before(most.oldest.started) {
			most = each
		}
		if looked++; looked == evictLook {
			break
		}
	}
	if h.most = most; most == nil {
		return nil, netip.Addr{}, 0
	}
	victim, of, handshakes = most.oldest, most.source, most.count
	isCrowd := handshakes >= max(crowdLeast, int(places/crowdShare))
	if !isCrowd && time.Since(victim.started) < evictAge {
		return nil, netip.Addr{}, 0
	}
	h.forget(victim)
	victim.evicted = true
	h.leaving++
	return victim, of, handshakes
}

// due counts an eviction. When it is time for a line of the log, it returns how
// many there were since the last one, and else 0.
func (h *handshakes) due() (silent uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.silent++
	if time.Since(h.logged) < evictLog {
		return 0
	}
	silent, h.silent, h.logged = h.silent, 0, time.Now()
	return silent
}

// makeRoom evicts a handshake when all places are taken, and reports whether
// there was one to evict.
func (g *Group) makeRoom() bool {
	victim, source, handshakes := g.handler.handshakes.evict(g.limit.Load())
	if victim == nil {
		return false
	}
	victim.cancel(errEvicted)
	g.metrics.Listener.Refused.Of(metrics.RefusedSilent).Inc()
	if n := g.handler.handshakes.due(); n > 0 {
		g.log.LogAttrs(g.base, slog.LevelWarn, "all places are taken: handshakes that wait for their client give way",
			slog.String("source", sourceText(source)), slog.Int("handshakes", handshakes), slog.Uint64("gave_way", n))
	}
	return true
}
