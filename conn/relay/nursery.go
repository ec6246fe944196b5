package relay

import (
	"sync"
	"time"
)

const (
	// youth is how long a relay has its two goroutines at least. Most relays
	// end sooner, and moving to a reactor costs more than they do.
	youth = 100 * time.Millisecond
	// maxBusy is how many relays stay longer because they move bytes. A
	// reactor serves many at once with less work, but a single message waits
	// for two wake-ups there instead of one.
	maxBusy = 8
	// longIdle is an idle timeout that need not count from the first moment:
	// the time in the nursery is less than the quarter that it may be late.
	longIdle = 10 * time.Second
)

// nursery has the young relays of Pools, in the order in which they came or
// were last looked at. One timer for all of them sends the older ones to their
// reactors.
type nursery struct {
	mu          sync.Mutex
	first, last *session
	count       int
	busy        int            // relays that stay longer
	timer       *time.Timer    // nil: not set
	sweeping    sync.WaitGroup // the timer's function
	closed      bool
}

// place is a relay's place in the nursery.
type place struct {
	in         bool
	busy       bool  // it stays longer
	seen       int64 // bytes both ways, when last looked at
	since      time.Time
	prev, next *session
}

// add takes a relay in, if there are fewer than most.
func (n *nursery) add(s *session, most int) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || n.count >= most {
		return false
	}
	n.put(s, place{since: s.started})
	if n.timer == nil {
		n.set(youth)
	}
	return true
}

// put makes a relay the last one.
func (n *nursery) put(s *session, at place) {
	at.in, at.prev = true, n.last
	s.young = at
	if n.last == nil {
		n.first = s
	} else {
		n.last.young.next = s
	}
	n.last = s
	n.count++
	if at.busy {
		n.busy++
	}
}

// remove forgets a relay that has ended, if it is here.
func (n *nursery) remove(s *session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.drop(s)
}

func (n *nursery) drop(s *session) {
	at := s.young
	if !at.in {
		return
	}
	if at.prev == nil {
		n.first = at.next
	} else {
		at.prev.young.next = at.next
	}
	if at.next == nil {
		n.last = at.prev
	} else {
		at.next.young.prev = at.prev
	}
	s.young = place{}
	n.count--
	if at.busy {
		n.busy--
	}
}

func (n *nursery) set(after time.Duration) {
	n.sweeping.Add(1)
	n.timer = time.AfterFunc(after, n.sweep)
}

// sweep sends the relays away that are old enough.
func (n *nursery) sweep() {
	defer n.sweeping.Done()
	for _, s := range n.grown(time.Now()) {
		s.startIdleChecks()
		s.fold()
	}
}

// grown takes out the relays that are old enough now, but for a few that have
// moved bytes since the last look. The next sweep is for the others.
func (n *nursery) grown(now time.Time) []*session {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.timer = nil
	var grown []*session
	for s := n.first; s != nil && now.Sub(s.young.since) >= youth; s = n.first {
		was, bytes := s.young, s.o.Counters.In.Load()+s.o.Counters.Out.Load()
		n.drop(s)
		if bytes == was.seen || n.busy == maxBusy {
			grown = append(grown, s)
			continue
		}
		n.put(s, place{busy: true, seen: bytes, since: now})
	}
	if n.first != nil && !n.closed {
		n.set(max(n.first.young.since.Add(youth).Sub(now), youth/4))
	}
	return grown
}

// close ends the sweeps. No relay may come after that.
func (n *nursery) close() {
	n.mu.Lock()
	n.closed = true
	if n.timer != nil && n.timer.Stop() {
		n.sweeping.Done()
	}
	n.mu.Unlock()
	n.sweeping.Wait()
}
