package shared

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/redis/rueidis"

	"cleversocks/metrics"
)

// maxInFlight bounds the calls that connections wait for. A deadline alone does
// not bound a call of a client that has thousands in flight.
const maxInFlight = 64

// Errors of a call that was not made.
var (
	errDown = errors.New("the shared state does not answer")
	errBusy = errors.New("too many calls to the shared state are in flight")
)

// backgroundTimeout bounds the calls that no connection waits for.
const backgroundTimeout = time.Second

func dialUnix(ctx context.Context, path string, dialer *net.Dialer, _ *tls.Config) (net.Conn, error) {
	return dialer.DialContext(ctx, "unix", path)
}

// call runs f against the store and keeps the score. ctx bounds it; what names
// it in the metrics.
func (s *Store) call(ctx context.Context, what string, f func(ctx context.Context, c rueidis.Client) error) error {
	client := s.client.Load()
	if client == nil || s.health.isDown() {
		s.metrics.Calls.Of(what, metrics.SharedDown).Inc()
		return errDown
	}
	start := time.Now()
	err := f(ctx, *client)
	if errors.Is(err, context.Canceled) && errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		err = context.DeadlineExceeded
	}
	s.metrics.Duration.Update(time.Since(start).Seconds())
	switch {
	case err == nil:
		s.metrics.Calls.Of(what, metrics.SharedOK).Inc()
		s.health.answered(s)
	case errors.Is(err, context.Canceled):
		s.metrics.Calls.Of(what, metrics.SharedCanceled).Inc()
	case isStrange(err):
		s.metrics.Calls.Of(what, metrics.SharedError).Inc()
		s.health.answered(s) // as it does others
	default:
		outcome := metrics.SharedError
		if errors.Is(err, context.DeadlineExceeded) {
			outcome = metrics.SharedTimeout
		}
		s.metrics.Calls.Of(what, outcome).Inc()
		s.health.failed(ctx, s, err)
	}
	return err
}

// promptly is call within the budget of a call, of which the wait for a place among
// those in flight is a part.
func (s *Store) promptly(ctx context.Context, what string, f func(ctx context.Context, c rueidis.Client) error) error {
	ctx, cancel := spending(ctx, s.options.Timeout)
	defer cancel()
	select {
	case s.permits <- struct{}{}:
	case <-ctx.Done():
		s.metrics.Calls.Of(what, metrics.SharedBusy).Inc()
		return errBusy
	}
	defer func() { <-s.permits }()
	return s.call(ctx, what, f)
}

// bounded is promptly on a goroutine of its own, for who must not wait longer
// than the budget: whatever the client library does, it returns by then. The first
// connections of a process may be there before the service runs, and wait for it if
// the store answers.
func (s *Store) bounded(ctx context.Context, what string, f func(ctx context.Context, c rueidis.Client) error) error {
	ctx, cancel := spending(ctx, s.options.Timeout)
	defer cancel()
	if s.client.Load() != nil {
		select {
		case <-s.runs:
		case <-ctx.Done():
			return errDown
		}
	}
	done := make(chan error, 1)
	if !s.background(func(context.Context) { done <- s.promptly(ctx, what, f) }) {
		return errDown
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// spending is a context that ends when a budget is spent, with the cause that a
// deadline has. Time is spent in small steps, each of which this process must have
// lived through: on a machine that does not let it run for a while an answer that
// came in time is not taken for a late one.
func spending(ctx context.Context, budget time.Duration) (context.Context, context.CancelFunc) {
	const steps = 5
	ctx, cancel := context.WithCancelCause(ctx)
	lived := 0
	var timer *time.Timer
	timer = time.AfterFunc(time.Hour, func() {
		if lived++; lived == steps {
			cancel(context.DeadlineExceeded)
			return
		}
		timer.Reset(budget / steps)
	})
	timer.Reset(budget / steps)
	return ctx, func() { timer.Stop(); cancel(context.Canceled) }
}
