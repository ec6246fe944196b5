package upstream

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"cleversocks/listener/proxyproto"
	"cleversocks/metrics"
)

// member is one way through a pool.
type member struct {
	label  string // unique in its pool, without credentials
	hops   chain
	health Health
	// sendProxy is the header for the first hop.
	sendProxy proxyproto.Send
	timeout   time.Duration // of one handshake for a client
	open      func(ctx context.Context, hops chain, header []byte) (*prepared, *Error)
	log       *slog.Logger
	metrics   *metrics.UpstreamMember
	*state
	shelf *shelf
	kick  chan struct{} // asks watch for a probe at once
}

// state is what is known of a member; it outlives a reload.
type state struct {
	mu       sync.Mutex
	up       bool
	failures int // in a row
	smoothed time.Duration
	drained  bool // an operator wants no new tunnels through it
	// refusals are the requests in a row that the member refused by itself,
	// which a probe does not see: it asks for nothing.
	refusals  int
	refusedAt time.Time
}

func (m *member) last() Hop { return m.hops[len(m.hops)-1] }

// isUp reports whether the member is one to choose. One that refuses us is out,
// and gets a request an interval later, which tells whether it still does.
func (m *member) isUp() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.up && (m.refusals < m.health.Failures || time.Since(m.refusedAt) >= m.health.Interval)
}

func (s *state) latency() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.smoothed
}

// usable reports whether new tunnels may go through the member.
func (m *member) usable() bool { return m.isUp() && !m.isDrained() }

func (s *state) isDrained() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drained
}

// suspect reports whether the member has failed but is not out.
func (s *state) suspect() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.up && s.failures > 0
}

// worked notes a handshake that took some time.
func (m *member) worked(took time.Duration) {
	m.mu.Lock()
	came := !m.up
	m.up, m.failures = true, 0
	refuses := m.refusals >= m.health.Failures
	if m.smoothed == 0 {
		m.smoothed = took
	} else {
		m.smoothed += (took - m.smoothed) / 4
	}
	m.mu.Unlock()
	m.metrics.Latency.Update(took.Seconds())
	if refuses {
		return // a handshake is all that works
	}
	m.metrics.Up.Store(1)
	if came {
		m.log.Info("upstream is up", "member", m.label)
	}
}

// failed notes a handshake that failed.
func (m *member) failed(err error) {
	m.mu.Lock()
	m.failures++
	went := m.up && m.failures >= m.health.Failures
	if went {
		m.up = false
	}
	up := m.up
	m.mu.Unlock()
	m.metrics.Failures.Inc()
	if went {
		m.metrics.Up.Store(0)
		m.log.Warn("upstream is down", "member", m.label, "err", err)
	}
	if up {
		m.probeSoon()
	}
}

// granted notes a request that the member did not refuse by itself.
func (m *member) granted() {
	m.mu.Lock()
	came := m.refusals >= m.health.Failures
	m.refusals = 0
	up := m.up
	m.mu.Unlock()
	if came && up {
		m.metrics.Up.Store(1)
		m.log.Info("upstream is up", "member", m.label)
	}
}

// refused notes a request that the member refused by itself.
func (m *member) refused(err error) {
	m.mu.Lock()
	m.refusals++
	m.refusedAt = time.Now()
	went := m.up && m.refusals == m.health.Failures
	m.mu.Unlock()
	m.metrics.Failures.Inc()
	if went {
		m.metrics.Up.Store(0)
		m.log.Warn("upstream is down: it refuses us", "member", m.label, "err", err)
	}
}

// probeSoon asks for a probe at once; one that is asked for already serves.
func (m *member) probeSoon() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// reach gets an answer from the last hop, over a warm connection if there is
// one. A warm one that breaks at its use is replaced by a fresh one: between
// the look at it and the request the hop may have closed it.
func (m *member) reach(ctx context.Context, from Origin, want ask) (_ *prepared, warm bool, _ *Error) {
	if p := m.shelf.take(); p != nil {
		fail := want(ctx, p, m.last())
		if fail == nil {
			return p, true, nil
		}
		p.close()
		if !fail.HopFault || fail.refusesUs() || ctx.Err() != nil {
			m.met(ctx, fail)
			return nil, true, named(fail, m.last())
		}
	}
	opening, cancel := context.WithTimeout(ctx, m.timeout)
	p, fail := m.fresh(opening, from)
	cancel()
	if fail != nil {
		// A client that went away is not the member's failure. Whatever the
		// cause it gave, Err says Canceled.
		if !errors.Is(ctx.Err(), context.Canceled) {
			m.failed(fail)
		}
		return nil, false, fail
	}
	if fail = want(ctx, p, m.last()); fail != nil {
		p.close()
		m.met(ctx, fail)
		return nil, false, named(fail, m.last())
	}
	return p, false, nil
}

// met notes a request that failed.
func (m *member) met(ctx context.Context, fail *Error) {
	switch {
	case ctx.Err() != nil:
	case fail.refusesUs():
		m.refused(fail)
	case fail.HopFault:
		// A destination can provoke this, so that it is no proof; the probe
		// will tell.
		m.metrics.Failures.Inc()
		m.probeSoon()
	default:
		m.granted() // its word about the destination
	}
}

// fresh opens a connection and notes that it worked.
func (m *member) fresh(ctx context.Context, from Origin) (*prepared, *Error) {
	header, err := m.sendProxy.Header(from.Client, from.Local)
	if err != nil {
		return nil, hopError(m.hops[0], "dial", err)
	}
	start := time.Now()
	p, fail := m.open(ctx, m.hops, header)
	if fail == nil {
		m.worked(time.Since(start))
	}
	return p, fail
}
