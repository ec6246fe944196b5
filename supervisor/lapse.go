package supervisor

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"cleversocks/authsvc"
)

// lapseLook is how often sessions are looked at while any user's settings have
// a time: the clock may be set, and the host may sleep.
const lapseLook = time.Minute

// lapses ends the sessions of users who are disabled, or whose time is over.
type lapses struct {
	log     *slog.Logger
	users   *atomic.Pointer[authsvc.Users] // in force
	end     func() int                     // conn.Group.EndLapsed
	changed chan struct{}                  // 1: other users are in force
}

func newLapses(log *slog.Logger, users *atomic.Pointer[authsvc.Users], end func() int) *lapses {
	return &lapses{log: log, users: users, end: end, changed: make(chan struct{}, 1)}
}

func (l *lapses) String() string { return "lapses" }

// reconsider looks at the sessions now. A reload calls it once its users are in
// force.
func (l *lapses) reconsider() {
	select {
	case l.changed <- struct{}{}:
	default: // it is about to look
	}
}

// Serve looks at each moment at which time lets a user out, until ctx ends.
func (l *lapses) Serve(ctx context.Context) error {
	for {
		if n := l.end(); n > 0 {
			l.log.LogAttrs(ctx, slog.LevelInfo, "sessions of users who may not come now were ended", slog.Int("sessions", n))
		}
		var wake <-chan time.Time
		now := time.Now()
		if next, timed := l.users.Load().NextChange(now); timed {
			wait := lapseLook
			if !next.IsZero() {
				wait = min(wait, next.Sub(now))
			}
			wake = time.After(wait)
		}
		select {
		case <-wake:
		case <-l.changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
