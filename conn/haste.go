package conn

import (
	"sync"
	"time"
)

// hurryGrace is for handshakes under way when the daemon drains: one without a
// request has nothing to lose, and a silent client would hold the drain up for
// all of its time.
const hurryGrace = time.Second

// How far a session's handshake has come, as far as a drain cares. It is zero
// before its task has begun.
const (
	stageSilent    uint32 = iota + 1 // not a byte has come
	stageTalking                     // there is no request yet
	stageHurried                     // its time was cut short
	stageRequested                   // the drain awaits it
)

// haste shortens the handshakes that a drain finds. Its zero value is
// ready.
type haste struct {
	// mu is held while a deadline is cut short, so that a session which has
	// its request meanwhile can wait for that, and lift it.
	mu sync.Mutex
}

// hurry gives a session's handshake little time from now on, or from its start
// when not a byte has come, unless its request has.
func (h *haste) hurry(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var until time.Time
	switch {
	case s.stage.CompareAndSwap(stageSilent, stageHurried):
		until = s.started.Add(hurryGrace)
	case s.stage.CompareAndSwap(stageTalking, stageHurried):
		until = time.Now().Add(hurryGrace)
	default:
		return
	}
	if end := s.started.Add(s.policy.Timeouts.Handshake); end.Before(until) {
		until = end
	}
	_ = s.socket.SetReadDeadline(until) // fails on a closed conn, whose handshake has ended
}

// began is for a session that has its deadline and waits for its first byte.
// A drain may have begun before it could be hurried.
func (h *haste) began(s *session, draining <-chan struct{}) {
	s.stage.Store(stageSilent)
	select {
	case <-draining:
		h.hurry(s)
	default:
	}
}

// requested is for a session that has its request, before it lifts its
// deadline.
func (h *haste) requested(s *session) {
	if s.stage.Swap(stageRequested) == stageHurried {
		h.mu.Lock() // the deadline is set by then
		defer h.mu.Unlock()
	}
}

// endedByDrain says whether a handshake that ran out of time was hurried.
func (s *session) endedByDrain() bool { return s.stage.Load() == stageHurried }
