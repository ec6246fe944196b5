package relay

import (
	"context"
	"errors"

	"cleversocks/conn/cause"
)

// EndError is a reason to end a relay from outside. Cancel the relay's context
// with it as the cause, or return it from a Meter.
type EndError struct {
	Cause string // one of the names of package cause
}

// Error is the cause's name.
func (e *EndError) Error() string { return "relay ended: " + e.Cause }

// The reasons to end a relay from outside.
var (
	ErrDrained = &EndError{Cause: cause.Drained} // the daemon's drain deadline is over
	ErrRevoked = &EndError{Cause: cause.Revoked} // new rules refuse the session, or an operator killed it
	ErrQuota   = &EndError{Cause: cause.Quota}   // the user's bytes are used up
)

// causeOf is the cause that err carries, or fallback.
func causeOf(err error, fallback string) string {
	if end, ok := errors.AsType[*EndError](err); ok {
		return end.Cause
	}
	return fallback
}

// rank orders causes: a relay in which one side has closed can still end
// otherwise, and that is then why it ended.
type rank uint8

const (
	rankNone   rank = iota
	rankClosed      // a clean end of stream
	rankFinal       // a reset, or an end from outside
)

// verdict is why a relay ends. The first of the highest rank stays.
type verdict struct {
	rank  rank
	cause string
	err   error
	abort bool // both sides are to see a reset
}

// note keeps v if it outranks what is known.
func (s *session) note(v verdict) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.rank > s.verdict.rank {
		s.verdict = v
	}
}

// stop ends both directions now. A turn must not call it.
func (s *session) stop(v verdict) {
	v.rank = rankFinal
	s.note(v)
	s.pumps.Lock()
	defer s.released()
	if s.reactor != nil {
		s.halt()
		return
	}
	s.wakePaused()
	s.client.interrupt()
	s.server.interrupt()
}

// wakePaused ends the meter's pauses on goroutines.
func (s *session) wakePaused() {
	if s.stopped != nil {
		s.stopOnce.Do(func() { close(s.stopped) })
	}
}

// cancelled runs when the context ends before the relay does.
func (s *session) cancelled() {
	defer s.callbacks.Done()
	err := context.Cause(s.ctx)
	// A stream cut short must not look complete, hence the reset.
	s.stop(verdict{cause: causeOf(err, cause.Drained), err: err, abort: true})
}
