package supervisor

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/thejerf/suture/v4"
)

func TestIdleExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var active atomic.Int64
		var limit atomic.Int64
		changed := make(chan struct{}, 1)
		e := newIdleExit(func() time.Duration { return time.Duration(limit.Load()) }, func() int { return int(active.Load()) }, changed)
		ended := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { ended <- e.Serve(ctx) }()

		time.Sleep(time.Hour) //nolint:forbidigo // synctest's clock
		if closed(e.expired) {
			t.Fatal("ended with a limit of 0")
		}
		limit.Store(int64(time.Minute))
		e.reconsider()               // a reload sets a limit
		time.Sleep(59 * time.Second) //nolint:forbidigo // synctest's clock
		active.Store(1)
		changed <- struct{}{}
		time.Sleep(time.Hour) //nolint:forbidigo // synctest's clock
		if closed(e.expired) {
			t.Fatal("ended while a connection was there")
		}
		active.Store(0)
		changed <- struct{}{}
		time.Sleep(59 * time.Second) //nolint:forbidigo // synctest's clock
		if closed(e.expired) {
			t.Fatal("ended too early")
		}
		time.Sleep(2 * time.Second) //nolint:forbidigo // synctest's clock
		if !closed(e.expired) {
			t.Fatal("not ended")
		}
		if err := <-ended; !errors.Is(err, suture.ErrDoNotRestart) {
			t.Errorf("%v", err)
		}
	})
}

// A daemon with nothing to do whose predecessor still had tunnels ended as idle,
// and systemd ended those with it.
func TestPredecessorsAreNotIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ps := &predecessors{}
		e := newIdleExit(func() time.Duration { return time.Minute }, ps.connections, nil)
		ps.changed = e.reconsider
		ended := make(chan error, 1)
		one, other := &predecessor{of: ps}, &predecessor{of: ps}
		one.count(2, 0)
		other.count(1, 0)
		go func() { ended <- e.Serve(t.Context()) }()
		one.count(0, 0)
		time.Sleep(time.Hour) //nolint:forbidigo // synctest's clock
		if closed(e.expired) {
			t.Fatal("ended while a predecessor has a connection")
		}
		other.count(0, 0)
		time.Sleep(59 * time.Second) //nolint:forbidigo // synctest's clock
		if closed(e.expired) {
			t.Fatal("ended too early")
		}
		if <-ended; !closed(e.expired) {
			t.Error("not ended")
		}
	})
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
