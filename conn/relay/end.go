package relay

import (
	"errors"

	"cleversocks/conn/cause"
)

// EndError is a reason to end a relay from outside: give it to Tunnel.End, or
// return it from a Meter.
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
	rankClosed rank = iota // a clean end of stream
	rankFinal              // a reset, or an end from outside
)

// verdict is why a relay ends. The first of the highest rank stays.
type verdict struct {
	rank  rank
	abort bool // both sides are to see a reset
	cause string
	err   error
}

// Nearly all relays end by one of these two.
var (
	clientClosed = verdict{rank: rankClosed, cause: cause.ClientClosed}
	serverClosed = verdict{rank: rankClosed, cause: cause.ServerClosed}
)

// note keeps v, which does not change any more, if it outranks what is known. The
// caller holds t.mu.
func (t *Tunnel) note(v *verdict) {
	if t.verdict == nil || v.rank > t.verdict.rank {
		t.verdict = v
	}
}

// End ends the tunnel from outside, for a reason that carries an *EndError, and
// returns at once. Both sides see a reset: a stream cut short must not look
// complete. On a tunnel that has ended it does nothing.
func (t *Tunnel) End(reason error) {
	over := t.locked(func() {
		t.note(&verdict{rank: rankFinal, cause: causeOf(reason, cause.Drained), err: reason, abort: true})
		t.halt()
		if t.hurried != nil {
			close(t.hurried)
			t.hurried = nil
		}
	})
	if over {
		t.finishLater()
	}
}
