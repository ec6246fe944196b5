package supervisor

import (
	"context"
	"time"

	"github.com/thejerf/suture/v4"
)

// idleExit ends the daemon when it has had no connection for a while
// (limits.exit_when_idle), as socket activation wants it.
type idleExit struct {
	limit   func() time.Duration // 0: never
	active  func() int
	changed <-chan struct{} // 1: from none to some connections, or back
	limits  chan struct{}   // 1: limit may have changed
	expired chan struct{}   // closed when the time has come
}

func newIdleExit(limit func() time.Duration, active func() int, changed <-chan struct{}) *idleExit {
	return &idleExit{
		limit: limit, active: active, changed: changed,
		limits: make(chan struct{}, 1), expired: make(chan struct{}),
	}
}

func (e *idleExit) String() string { return "idle exit" }

// reconsider makes Serve read the limit again. It never blocks.
func (e *idleExit) reconsider() {
	select {
	case e.limits <- struct{}{}:
	default:
	}
}

// Serve watches until ctx ends or the daemon has been idle for long enough.
func (e *idleExit) Serve(ctx context.Context) error {
	for {
		var timeout <-chan time.Time
		var timer *time.Timer
		if limit := e.limit(); limit > 0 && e.active() == 0 {
			timer = time.NewTimer(limit)
			timeout = timer.C
		}
		select {
		case <-e.changed:
		case <-e.limits:
		case <-timeout:
			close(e.expired)
			return suture.ErrDoNotRestart
		case <-ctx.Done():
			return ctx.Err()
		}
		if timer != nil {
			timer.Stop()
		}
	}
}
