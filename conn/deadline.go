package conn

import (
	"context"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// drainGrace is for handshakes under way when the daemon drains: one without a
// request has nothing to lose, and a silent client would hold the drain up for
// all of its time.
const drainGrace = time.Second

// How far a session's handshake has come, as far as a drain cares. It is zero
// before its task has begun.
const (
	stageSilent    uint32 = iota + 1 // not a byte has come
	stageTalking                     // there is no request yet
	stageCutShort                    // a drain has cut its time short
	stageRequested                   // there is a request, which the drain awaits
)

// deadlines are those of handshakes, which a drain cuts short. The zero value is
// ready.
type deadlines struct {
	// mu is held while a deadline is cut short, so that a session which has
	// its request meanwhile can wait for that, and lift it.
	mu sync.Mutex
	// patient leaves handshakes all of their time: see Group.Retire.
	patient atomic.Bool
}

// cutShort gives a session's handshake little time from now on, or from its
// start when not a byte has come, unless its request has.
func (d *deadlines) cutShort(s *session) {
	if d.patient.Load() {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var until time.Time
	switch {
	case s.stage.CompareAndSwap(stageSilent, stageCutShort):
		until = s.started.Add(drainGrace)
	case s.stage.CompareAndSwap(stageTalking, stageCutShort):
		until = time.Now().Add(drainGrace)
	default:
		return
	}
	if end := s.started.Add(s.policy.Timeouts.Handshake); end.Before(until) {
		until = end
	}
	s.cutAfter.Store(int32(max(until.Sub(s.started).Milliseconds(), 1)))
	s.scope.mu.Lock()
	defer s.scope.mu.Unlock()
	switch r, ok := s.scope.holder.(ringer); {
	case ok:
		r.Ring()
	case s.socket != nil:
		_ = s.socket.SetReadDeadline(until) // fails on a closed conn, whose handshake has ended
	}
}

// cutAt is when a handshake ends that was cut short; false: it was not.
func (s *session) cutAt() (at time.Time, cut bool) {
	after := time.Duration(s.cutAfter.Load()) * time.Millisecond
	return s.started.Add(after), after > 0
}

// cutTurn ends the wait of a log-in for its turn, as cutShort does that for bytes.
func (d *deadlines) cutTurn(cancel context.CancelCauseFunc) {
	if !d.patient.Load() {
		time.AfterFunc(drainGrace, func() { cancel(os.ErrDeadlineExceeded) })
	}
}

// timed sets what is left of the time that a handshake has, unless there is a
// request.
func (s *session) timed() error {
	if s.stage.Load() == stageRequested {
		return nil
	}
	if err := s.socket.SetDeadline(s.started.Add(s.policy.Timeouts.Handshake)); err != nil {
		return err
	}
	if at, cut := s.cutAt(); cut {
		_ = s.socket.SetReadDeadline(at) // it fails as the one before
	}
	return nil
}

// began is for a session that has its deadline and waits for its first byte.
// A drain that has begun before found nothing to cut short.
func (d *deadlines) began(s *session, draining <-chan struct{}) {
	s.stage.Store(stageSilent)
	select {
	case <-draining:
		d.cutShort(s)
	default:
	}
}

// requested is for a session that has its request, before it lifts its
// deadline.
func (d *deadlines) requested(s *session) {
	if s.stage.Swap(stageRequested) == stageCutShort {
		d.mu.Lock() // the deadline is set by then
		defer d.mu.Unlock()
	}
}

// isCutShort reports whether a drain has cut the session's handshake short.
func (s *session) isCutShort() bool { return s.stage.Load() == stageCutShort }
