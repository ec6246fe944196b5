package conn

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"cleversocks/conn/handshake"
	"cleversocks/conn/relay"
	"cleversocks/listener/transparent"
)

// lane is what the sessions of one reactor share up to their relays: the memory
// that they read into, and one timer for the times that they have.
type lane struct {
	g       *Group
	reactor *relay.Reactor
	seat    relay.Seat
	buf     [handshakeBuffer]byte // for the reactor's goroutine, cleared after each use
	// turns is held while one of the sessions has its turn, or begins: another
	// reactor may have accepted it. Of all locks it comes first, but for an acceptor's.
	turns sync.Mutex

	mu    sync.Mutex
	timed reactive // the list of those that have a time, in no order
	timer *time.Timer
	armed time.Time // is when the timer rings; zero: not at all
}

// leastRing is the least time between two looks at the list: with many sessions
// whose time ends at different moments, a look would else be one for each.
const leastRing = 5 * time.Millisecond

// onReactors is what a Group needs for sessions on reactors.
type onReactors struct {
	reactives sync.Pool // of *reactive
	served    atomic.Pointer[[]*lane]
	nextLane  atomic.Uint32
}

// lanes are those of all reactors of a policy, which every policy of a daemon
// shares; none: sessions are tasks.
func (g *Group) lanes(reactors []*relay.Reactor) []*lane {
	if known := g.served.Load(); known != nil && len(*known) == len(reactors) && (*known)[0].reactor == reactors[0] {
		return *known
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]*lane, 0, len(reactors))
	for _, reactor := range reactors {
		l := &lane{g: g, reactor: reactor}
		l.timed.prev, l.timed.next = &l.timed, &l.timed
		l.seat = reactor.Seat(l)
		l.timer = time.AfterFunc(time.Hour, l.seat.Ring)
		l.timer.Stop()
		list = append(list, l)
	}
	g.served.Store(&list)
	return list
}

// nextOf has the lanes take turns. The count comes to its end and begins anew, and is
// no int, which would be negative in between where that has 32 bits.
func (g *Group) nextOf(lanes []*lane) *lane {
	return lanes[g.nextLane.Add(1)%uint32(len(lanes))]
}

// expect has a session told when a moment has come, in the place of what it
// expected before. Its reactor's goroutine asks for it, or who begins it.
func (l *lane) expect(r *reactive, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.until = at
	if r.next == nil {
		last := l.timed.prev
		r.prev, r.next = last, &l.timed
		last.next, l.timed.prev = r, r
	}
	if l.armed.IsZero() || at.Before(l.armed) {
		l.arm(at)
	}
}

// arm sets the timer. The caller holds the lock.
func (l *lane) arm(at time.Time) {
	l.armed = at
	l.timer.Reset(max(time.Until(at), leastRing))
}

// forget is for a session that expects nothing any more.
func (l *lane) forget(r *reactive) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unlink(r)
}

// unlink takes a session off the list. The caller holds the lock.
func (l *lane) unlink(r *reactive) {
	if r.next != nil {
		r.prev.next, r.next.prev = r.next, r.prev
		r.prev, r.next = nil, nil
	}
}

// Turn makes the lane a relay.Guest: the timer rings.
func (l *lane) Turn(relay.Side, uint32) {
	for _, r := range l.due(time.Now()) {
		r.expired()
	}
}

// due are the sessions whose time has come, which are off the list then. It sets
// the timer for the next one.
func (l *lane) due(now time.Time) (due []*reactive) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var first time.Time
	for r := l.timed.next; r != &l.timed; {
		next := r.next
		switch {
		case !r.until.After(now):
			l.unlink(r)
			due = append(due, r)
		case first.IsZero() || r.until.Before(first):
			first = r.until
		}
		r = next
	}
	l.armed = time.Time{}
	if !first.IsZero() {
		l.arm(first)
	}
	return due
}

// admit takes a connection that a listener has accepted, as Admit does, but without
// a task. If it is refused, its socket is still the caller's, and else, whatever
// happens, the session's.
func (l *lane) admit(fd int, client netip.AddrPort, listener string, policy *Policy) (refused string) {
	g := l.g
	s := &session{id: g.nextID.Add(1), listener: listener, client: client, started: time.Now(), raw: rawEnds{client: rawEndOf(fd)}}
	if reason := g.letIn(s); reason != "" {
		return reason
	}
	r, ok := g.reactives.Get().(*reactive)
	if !ok {
		r = new(reactive)
	}
	r.g, r.lane, r.opening, r.place = g, l, g.handler.newOpening(s), isShaking
	s.policy = policy
	l.turns.Lock() // whoever rings for it from now on waits
	defer l.turns.Unlock()
	defer r.contain(g)
	r.seat = l.reactor.Seat(r)
	g.beginWith(r, s)
	r.begin(handshake.Options{Spoken: policy.listener(listener).Protocols, Heads: g.handler.heads}) // asks for bytes
	l.expect(r, s.started.Add(policy.Timeouts.Handshake))
	g.handler.deadlines.began(s, g.handler.draining.Done())
	if err := r.seat.Watch(fd, relay.ClientSide, relay.Arrivals); err != nil {
		r.unwatched = true
		r.Ring()
	}
	return ""
}

// onReactor says whether what comes to a listener can be served without a task:
// where nothing happens before a protocol's first byte, and nobody listens in.
func (l *Listener) onReactor() bool {
	return len(l.Door) == 0 && l.SNI == SNIOff && l.Transparent == transparent.Off
}
