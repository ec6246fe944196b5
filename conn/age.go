package conn

import (
	"context"
	"fmt"
	"time"

	"cleversocks/conn/relay"
)

// errAged ends a tunnel that has reached its age. Its cause is that of a drain:
// the tunnel did nothing wrong, and its client is to connect again, perhaps to
// another replica.
var errAged = fmt.Errorf("limits.max_session_age: %w", relay.ErrDrained)

// Ages ends connections at an age (limits.max_session_age). A tunnel never moves
// to a replica that was added after it began; this is how the load of long ones
// evens out. A tunnel has nothing of its own for this, no timer and no time: its
// number says where in the tenth around the age it ends.
type Ages struct {
	group   *Group
	limit   func() time.Duration // 0: never
	changed chan struct{}        // 1: limit may have changed
}

// NewAges makes the service for a group's connections. limit is asked before
// each look.
func NewAges(g *Group, limit func() time.Duration) *Ages {
	return &Ages{group: g, limit: limit, changed: make(chan struct{}, 1)}
}

func (a *Ages) String() string { return "session ages" }

// Reconsider makes Serve ask again how old connections may become, those that
// are open included. It never blocks.
func (a *Ages) Reconsider() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// Serve ends what has reached its age, until ctx ends.
func (a *Ages) Serve(ctx context.Context) error {
	for {
		var due <-chan time.Time
		stop := func() bool { return true }
		if limit := a.limit(); limit > 0 {
			timer := time.NewTimer(a.group.endAged(time.Now(), limit))
			due, stop = timer.C, timer.Stop
		}
		select {
		case <-due:
		case <-a.changed:
		case <-ctx.Done():
			stop()
			return ctx.Err()
		}
		stop()
	}
}

// How often connections are looked at: a hundredth of their age, within bounds.
const (
	ageLooks   = 100
	ageLookMin = 10 * time.Millisecond
	ageLookMax = 10 * time.Second
)

// endAged ends the connections that have reached their age, and returns when to
// look again: when the next one does, but not all the time.
func (g *Group) endAged(now time.Time, limit time.Duration) (wait time.Duration) {
	wait = limit - limit/10 // a connection of now ends no earlier
	look := min(max(limit/ageLooks, ageLookMin), ageLookMax)
	var aged []*session
	g.mu.Lock()
	for s := range g.sessions {
		began, open := s.openSince()
		switch left := began.Add(ageOf(s.id, limit)).Sub(now); {
		case !open:
			wait = look // it may have shaken hands for long when it begins
		case left > 0:
			wait = min(wait, left)
		default:
			aged = append(aged, s)
			wait = look // it may have more than one end to come to
		}
	}
	g.mu.Unlock()
	for _, s := range aged {
		s.grownOld()
	}
	return max(wait, look)
}

// leaving has a session which carries one request after the other finish those
// of now and end.
type leaving struct {
	began time.Time // the session's; its own field changes when it becomes a tunnel
	leave context.CancelFunc
}

// untilOld is draining for one session, and ends when the session has reached
// its age too. release is to be called when the session no longer leaves this way.
func (s *session) untilOld(draining context.Context) (leaves context.Context, release func()) {
	leaves, leave := context.WithCancel(draining)
	s.leaves.Store(&leaving{s.started, leave})
	return leaves, func() {
		s.leaves.Store(nil)
		leave()
	}
}

// idleUntil ends when a connection that waits for a request is to end: in a hurry,
// or when the session has reached its age. A drain without haste, in an upgrade,
// awaits the next request, or the idle time-out: it may be on its way, and no
// client sends one again that is no GET. (nginx#437: requests on kept connections
// were reset by reloads.)
func idleUntil(draining, hurrying, leaves context.Context) (until context.Context, calm func()) {
	until, end := context.WithCancel(hurrying)
	stop := context.AfterFunc(leaves, func() {
		if draining.Err() == nil {
			end()
		}
	})
	return until, func() { stop(); end() }
}

// openSince is when the session began, unless it shakes hands: that has a time of
// its own.
func (s *session) openSince() (began time.Time, open bool) {
	switch l := s.leaves.Load(); {
	case l != nil:
		return l.began, true
	case s.relaying.Load():
		return s.started, true
	}
	return time.Time{}, false
}

// grownOld ends a session that has reached its age.
func (s *session) grownOld() {
	switch l := s.leaves.Load(); {
	case l != nil:
		l.leave()
	case s.relaying.Load():
		s.cancel(errAged)
	}
}

// ageOf is the age at which a connection ends: the limit, give or take a tenth,
// so that those which began together, after a restart, do not end together. The
// number's bits are mixed as in splitmix64 (Steele, Lea and Flood, "Fast
// splittable pseudorandom number generators", 2014): connections that follow
// each other are far apart.
func ageOf(id uint64, limit time.Duration) time.Duration {
	z := id * 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	part := float64((z^z>>31)>>11) / (1 << 53) // from 0 to 1
	// A look comes up to a hundredth late.
	return limit + time.Duration(float64(limit)*(0.19*part-0.1))
}
