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

// note keeps v if it outranks what is known. The caller holds t.mu.
func (t *tunnel) note(v verdict) {
	if v.rank > t.verdict.rank {
		t.verdict = v
	}
}

// cancelled runs when the context ends before the tunnel does.
func (t *tunnel) cancelled() {
	defer t.callbacks.Done()
	err := context.Cause(t.ctx)
	over := t.locked(func() {
		// A stream cut short must not look complete, hence the reset.
		t.note(verdict{rank: rankFinal, cause: causeOf(err, cause.Drained), err: err, abort: true})
		t.halt()
	})
	if over {
		t.finishLater()
	}
}
