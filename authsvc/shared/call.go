package shared

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
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
		s.health.worked(ctx, s)
	case errors.Is(err, context.Canceled):
		s.metrics.Calls.Of(what, metrics.SharedCanceled).Inc()
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

// health is whether the store answers: a breaker that opens at some errors in a
// row, so that a store in trouble is left alone, and closes as soon as a probe
// is answered.
type health struct {
	mu       sync.Mutex
	failures int
	down     bool
	since    time.Time     // of down
	heard    time.Duration // when a call worked last; 0: never
	told     bool          // the log has this outage
	toldAt   time.Time
	err      error
	kick     chan struct{} // 1: it went down
}

// tripAfter is how many errors in a row open the breaker.
const tripAfter = 5

// quiet is the least time between two lines about outages: a store that comes
// and goes does not fill the log.
const quiet = 10 * time.Second

func (h *health) isDown() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.down
}

// silence is for how long nothing was heard of the store.
func (h *health) silence(now time.Duration) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return now - h.heard
}

func (h *health) failed(ctx context.Context, s *Store, err error) {
	h.mu.Lock()
	h.failures++
	trips := h.failures >= tripAfter && !h.down
	h.mu.Unlock()
	if trips {
		h.lost(ctx, s, err)
	}
}

// lost opens the breaker.
func (h *health) lost(ctx context.Context, s *Store, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
	if h.down {
		return
	}
	h.down, h.since = true, time.Now()
	s.metrics.Up.Store(0)
	s.metrics.Outages.Inc()
	if h.told = time.Since(h.toldAt) >= quiet; h.told {
		h.toldAt = time.Now()
		effect := "this replica decides by itself"
		if s.options.Deny {
			effect = "what needs it is refused"
		}
		s.log.LogAttrs(ctx, slog.LevelWarn, "the shared state does not answer", slog.String("until_then", effect), slog.String("store", s.options.Target.String()), slog.Any("err", err))
	}
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// worked closes the breaker.
func (h *health) worked(ctx context.Context, s *Store) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failures = 0
	h.heard = max(s.now(), 1)
	s.metrics.Up.Store(1)
	if !h.down {
		return
	}
	h.down = false
	if h.told {
		s.log.LogAttrs(ctx, slog.LevelInfo, "the shared state answers again", slog.Duration("after", time.Since(h.since).Round(time.Millisecond)))
	}
	s.fleet.comeBack()
}

// Degraded says what is wrong with the store; "": nothing.
func (s *Store) Degraded() string {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	if s.health.heard == 0 && !s.health.down {
		return "the shared state has not answered yet"
	}
	if !s.health.down {
		return ""
	}
	return "the shared state has not answered since " + s.health.since.UTC().Format(time.RFC3339)
}

// The pauses between the probes of a store that does not answer.
const (
	firstProbe = 100 * time.Millisecond
	lastProbe  = time.Second
)

// reconnectEvery is how many probes in vain it takes to look for the store anew:
// its name may lead to another server by now, where one has failed over.
const reconnectEvery = 3

// watchHealth asks a store that does not answer until it does.
func (s *Store) watchHealth(ctx context.Context) error {
	for {
		select {
		case <-s.health.kick:
		case <-ctx.Done():
			return ctx.Err()
		}
		wait := firstProbe
		for n := 1; s.health.isDown(); n++ {
			if !after(ctx, wait/2+rand.N(wait/2)) { //nolint:gosec // spreads load, keeps no secret
				return ctx.Err()
			}
			if n%reconnectEvery == 0 {
				_ = s.reconnect() // if not, the next one may
			}
			s.probe(ctx)
			wait = min(2*wait, lastProbe)
		}
	}
}

// probe asks a store that is down by writing: one that answers and yet keeps
// nothing is of no use.
func (s *Store) probe(ctx context.Context) {
	client := s.client.Load()
	if client == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
	defer cancel()
	c := *client
	if c.Do(ctx, c.B().Set().Key(s.keys.probe(s.id)).Value("").Px(s.rhythm.beat).Build()).Error() == nil {
		s.health.worked(ctx, s)
	}
}

// Unsure says that the store has not answered for the time of a lease, where
// the settings want nobody let in then who has a quota.
func (s *Store) Unsure() bool {
	return s.options.Deny && s.health.silence(s.now()) > s.rhythm.lease
}
