package shared

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

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
	toldAt   time.Time     // when it had the last one
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
	if errors.Is(err, errDown) {
		return // it is known
	}
	h.err = err
	if h.down {
		return
	}
	h.down, h.since, h.told = true, time.Now(), false
	s.metrics.Up.Store(0)
	s.metrics.Outages.Inc()
	h.tell(ctx, s)
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// tell has the log say that the store is down, unless it has just said so of another
// outage: that of a store that comes and goes is told when it lasts. The lock is held.
func (h *health) tell(ctx context.Context, s *Store) {
	if h.told || time.Since(h.toldAt) < quiet {
		return
	}
	h.told, h.toldAt = true, time.Now()
	effect := "this replica decides by itself"
	if s.options.Deny {
		effect = "what needs it is refused"
	}
	s.log.LogAttrs(ctx, slog.LevelWarn, "the shared state does not answer", slog.String("until_then", effect), slog.String("store", s.options.Target.String()),
		slog.Time("since", h.since), slog.Any("err", h.err))
}

// stays is a probe in vain.
func (h *health) stays(ctx context.Context, s *Store, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down {
		h.err = err
		h.tell(ctx, s)
	}
}

// answered is a call that worked. One that was under way when the breaker opened does
// not close it: what has opened it need not be over.
func (h *health) answered(s *Store) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failures = 0
	h.heard = max(s.now(), 1)
	if !h.down {
		s.metrics.Up.Store(1)
	}
}

// worked closes the breaker.
func (h *health) worked(ctx context.Context, s *Store) {
	h.answered(s)
	h.mu.Lock()
	defer h.mu.Unlock()
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
	switch {
	case s.health.down:
		return "the shared state has not answered since " + s.health.since.UTC().Format(time.RFC3339)
	case s.health.heard == 0:
		return "the shared state has not answered yet"
	case s.strange.isNow(s.now(), s.rhythm.lease):
		return "the shared state holds something that is not ours under a name of ours"
	}
	return ""
}

// Trouble is Degraded with the error, for who may see addresses and names.
func (s *Store) Trouble() string {
	what := s.Degraded()
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	switch {
	case what != "" && s.health.down && s.health.err != nil:
		return what + ": " + s.health.err.Error()
	case what != "" && !s.health.down:
		return what + s.strange.example()
	}
	return what
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
			var err error
			if n%reconnectEvery == 0 {
				err = s.reconnect() // if not, the next one may
			}
			if perr := s.probe(ctx); perr != nil {
				s.health.stays(ctx, s, cmp.Or(err, perr))
			}
			wait = min(2*wait, lastProbe)
		}
	}
}

// probeScript writes, as all scripts do, and answers the time.
var probeScript = newScript(clock + `
redis.call('SET', KEYS[1], now, 'PX', ARGV[1])
return string.format('%d', now)
`)

// probe asks a store that is down by writing, and by a look at what all replicas use:
// one that answers and yet keeps nothing, or has something else there, is of no use.
func (s *Store) probe(ctx context.Context) error {
	client := s.client.Load()
	if client == nil {
		return errDown
	}
	ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
	defer cancel()
	c, asked := *client, time.Now()
	now, err := probeScript.run(ctx, c, []string{s.keys.probe(s.id)}, []string{ms(s.rhythm.beat)}).AsInt64()
	if err != nil {
		return err
	}
	s.offset.Store(now - asked.UnixMilli()) // what is read now has its times
	for _, r := range c.DoMulti(ctx, c.B().Zcard().Key(s.keys.replicas()).Build(), c.B().Hlen().Key(s.keys.about()).Build(),
		c.B().Zcard().Key(s.keys.outUsers()).Build(), c.B().Zcard().Key(s.keys.bans()).Build(), c.B().Hlen().Key(s.keys.bansData()).Build(),
		c.B().Xlen().Key(s.keys.events()).Build()) {
		if err := r.Error(); err != nil {
			return err
		}
	}
	s.health.worked(ctx, s)
	return nil
}

// Unsure says that the store has not answered for the time of a lease, where
// the settings want nobody let in then who has a quota.
func (s *Store) Unsure() bool {
	return s.options.Deny && s.health.silence(s.now()) > s.rhythm.lease
}
