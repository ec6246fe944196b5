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
	// giveWayAge is what an honest handshake takes at most on a slow line. One
	// of a source that is no crowd has this time to itself.
	giveWayAge = 2 * time.Second
	// giveWayLook is how many sources are looked at beside the one that was
	// last seen to have the most: a flood of many sources costs no more.
	giveWayLook = 64
	// leavingMost is how many may have given way and not have ended: so many
	// connections there are past the limit for a moment.
	leavingMost = 64
	// giveWayLog is the time between two lines about it.
	giveWayLog = time.Minute
)

// errGaveWay ends a handshake for the sake of somebody else's.
var errGaveWay = fmt.Errorf("all places are taken: the oldest handshake of its source gave way: %w",
	&relay.EndError{Cause: cause.HandshakeTimeout})

// giveWay knows the handshakes under way by source, in the order in which they
// came. Its zero value is ready.
type giveWay struct {
	mu      sync.Mutex
	sources map[netip.Addr]*shaking
	most    *shaking // the source that was last seen to have more than others
	leaving int      // given way, not ended
	logged  time.Time
	silent  uint64 // given way since the last line
}

// shaking is a source with handshakes: an IPv4 address or an IPv6 /64.
type shaking struct {
	source netip.Addr
	order  list.List // of *session, the oldest first; never empty
}

// began is for a session that has its context, and shakes hands from now on.
func (w *giveWay) began(s *session) {
	key := authsvc.SourceKey(s.client.Addr())
	w.mu.Lock()
	defer w.mu.Unlock()
	of := w.sources[key]
	if of == nil {
		if w.sources == nil {
			w.sources = make(map[netip.Addr]*shaking)
		}
		of = &shaking{source: key}
		w.sources[key] = of
	}
	s.shaking, s.shakes = of, of.order.PushBack(s)
	if w.most == nil || of.order.Len() > w.most.order.Len() {
		w.most = of
	}
}

// requested is for a session that has its request: it gives way no more.
func (w *giveWay) requested(s *session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forget(s)
}

// ended is for every session that ends.
func (w *giveWay) ended(s *session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forget(s)
	if s.gaveWay {
		w.leaving--
	}
}

// moved is for a session whose client a PROXY header has told.
func (w *giveWay) moved(s *session) {
	w.requested(s)
	w.began(s)
}

// forget takes a session off its source's list.
func (w *giveWay) forget(s *session) {
	of := s.shaking
	if of == nil {
		return
	}
	of.order.Remove(s.shakes)
	s.shaking, s.shakes = nil, nil
	if of.order.Len() > 0 {
		return
	}
	delete(w.sources, of.source)
	if w.most == of {
		w.most = nil
	}
}

// choose is the session that gives way: the oldest of the source with the most
// handshakes. Nil: none has to. Whoever is chosen is to be cancelled.
func (w *giveWay) choose(places int64) (victim *session, of netip.Addr, handshakes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.leaving >= leavingMost {
		return nil, netip.Addr{}, 0
	}
	most, looked := w.most, 0
	for _, each := range w.sources {
		if most == nil || each.order.Len() > most.order.Len() ||
			each.order.Len() == most.order.Len() && each.oldest().started.Before(most.oldest().started) {
			most = each
		}
		if looked++; looked == giveWayLook {
			break
		}
	}
	if w.most = most; most == nil {
		return nil, netip.Addr{}, 0
	}
	victim, of, handshakes = most.oldest(), most.source, most.order.Len()
	isCrowd := handshakes >= max(crowdLeast, int(places/crowdShare))
	if !isCrowd && time.Since(victim.started) < giveWayAge {
		return nil, netip.Addr{}, 0
	}
	w.forget(victim)
	victim.gaveWay = true
	w.leaving++
	return victim, of, handshakes
}

func (o *shaking) oldest() *session { return o.order.Front().Value.(*session) }

// due counts one that gave way, and says how many those are if it is time for
// a line.
func (w *giveWay) due() (silent uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silent++
	if time.Since(w.logged) < giveWayLog {
		return 0
	}
	silent, w.silent, w.logged = w.silent, 0, time.Now()
	return silent
}

// makeRoom has a handshake give way where all places are taken. It reports
// whether one did.
func (g *Group) makeRoom() bool {
	victim, source, handshakes := g.handler.giveWay.choose(g.limit.Load())
	if victim == nil {
		return false
	}
	victim.cancel(errGaveWay)
	g.metrics.Listener.Refused.Of(metrics.RefusedSilent).Inc()
	if n := g.handler.giveWay.due(); n > 0 {
		g.log.LogAttrs(g.base, slog.LevelWarn, "all places are taken: handshakes that wait for their client give way",
			slog.String("source", source.String()), slog.Int("handshakes", handshakes), slog.Uint64("gave_way", n))
	}
	return true
}
