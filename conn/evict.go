package conn

import (
	"container/list"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"cleversocks/authsvc"
	"cleversocks/conn/cause"
	"cleversocks/conn/relay"
	"cleversocks/metrics"
)

// When every place is taken, handshakes that wait for their client give way to
// who comes, as with sshd's MaxStartups: or one address with nothing to say
// could keep all others out, for as long as it renews its connections.
const (
	// crowdShare: a source that shakes as many hands as one of so many parts
	// of all places, and crowdLeast or more, is a crowd. Its oldest gives way
	// whatever its age.
	crowdShare = 8
	crowdLeast = 8
	// evictAge is what an honest handshake takes at most on a slow line. One
	// of a source that is no crowd has this time to itself.
	evictAge = 2 * time.Second
	// evictLook is how many sources are looked at beside the one that was
	// last seen to have the most: a flood of many sources costs no more.
	evictLook = 64
	// leavingMost is how many may have given way and not have ended: so many
	// connections there are past the limit for a moment.
	leavingMost = 64
	// evictLog is the time between two lines about it.
	evictLog = time.Minute
)

// errEvicted ends a handshake for the sake of somebody else's.
var errEvicted = fmt.Errorf("all places are taken: the oldest handshake of its source gave way: %w",
	&relay.EndError{Cause: cause.HandshakeTimeout})

// handshakes are those under way by source, in the order in which they
// came. Its zero value is ready.
type handshakes struct {
	mu      sync.Mutex
	sources map[netip.Addr]*handshakeSource
	most    *handshakeSource // the source that was last seen to have more than others
	leaving int              // given way, not ended
	logged  time.Time
	silent  uint64 // given way since the last line
}

// handshakeSource is a source with handshakes: an IPv4 address or an IPv6 /64.
type handshakeSource struct {
	source netip.Addr
	order  list.List // of *session, the oldest first; never empty
}

// began is for a session that has its context, and shakes hands from now on.
func (h *handshakes) began(s *session) {
	key := authsvc.SourceKey(s.client.Addr())
	h.mu.Lock()
	defer h.mu.Unlock()
	of := h.sources[key]
	if of == nil {
		if h.sources == nil {
			h.sources = make(map[netip.Addr]*handshakeSource)
		}
		of = &handshakeSource{source: key}
		h.sources[key] = of
	}
	s.handshakes, s.place = of, of.order.PushBack(s)
	if h.most == nil || of.order.Len() > h.most.order.Len() {
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

// moved is for a session whose client a PROXY header has told.
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
	of.order.Remove(s.place)
	s.handshakes, s.place = nil, nil
	if of.order.Len() > 0 {
		return
	}
	delete(h.sources, of.source)
	if h.most == of {
		h.most = nil
	}
}

// evict is the session that gives way: the oldest of the source with the most
// handshakes. Nil: none has to. Whoever is chosen is to be cancelled.
func (h *handshakes) evict(places int64) (victim *session, of netip.Addr, handshakes int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.leaving >= leavingMost {
		return nil, netip.Addr{}, 0
	}
	most, looked := h.most, 0
	for _, each := range h.sources {
		if most == nil || each.order.Len() > most.order.Len() ||
			each.order.Len() == most.order.Len() && each.oldest().started.Before(most.oldest().started) {
			most = each
		}
		if looked++; looked == evictLook {
			break
		}
	}
	if h.most = most; most == nil {
		return nil, netip.Addr{}, 0
	}
	victim, of, handshakes = most.oldest(), most.source, most.order.Len()
	isCrowd := handshakes >= max(crowdLeast, int(places/crowdShare))
	if !isCrowd && time.Since(victim.started) < evictAge {
		return nil, netip.Addr{}, 0
	}
	h.forget(victim)
	victim.evicted = true
	h.leaving++
	return victim, of, handshakes
}

func (o *handshakeSource) oldest() *session { return o.order.Front().Value.(*session) }

// due counts one that gave way, and says how many those are if it is time for
// a line.
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

// makeRoom has a handshake give way where all places are taken. It reports
// whether one did.
func (g *Group) makeRoom() bool {
	victim, source, handshakes := g.handler.handshakes.evict(g.limit.Load())
	if victim == nil {
		return false
	}
	victim.cancel(errEvicted)
	g.metrics.Listener.Refused.Of(metrics.RefusedSilent).Inc()
	if n := g.handler.handshakes.due(); n > 0 {
		g.log.LogAttrs(g.base, slog.LevelWarn, "all places are taken: handshakes that wait for their client give way",
			slog.String("source", source.String()), slog.Int("handshakes", handshakes), slog.Uint64("gave_way", n))
	}
	return true
}
