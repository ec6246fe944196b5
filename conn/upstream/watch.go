package upstream

import (
	"context"
	"time"
)

// suspicion is how soon a member that failed is looked at again until it is
// clear whether it is down.
const suspicion = time.Second

// Serve is watch, as a service.
func (m *member) Serve(ctx context.Context) error {
	m.watch(ctx)
	return ctx.Err()
}

// String names the service, without credentials.
func (m *member) String() string { return "upstream member " + m.label }

// watch is the member's actor: it probes, and keeps the shelf filled. Its
// first probe comes at once.
func (m *member) watch(ctx context.Context) {
	m.shelf.openUp()
	defer m.shelf.shutDown()
	next := time.NewTimer(0)
	defer next.Stop()
	var due time.Time // when next fires
	var sweep <-chan time.Time
	if m.shelf.size > 0 {
		ticker := time.NewTicker(m.shelf.maxIdle / 2)
		defer ticker.Stop()
		sweep = ticker.C
	}
	for {
		probed := false
		select {
		case <-ctx.Done():
			return
		case <-next.C:
			m.probe(ctx)
			probed = true
		case <-m.kick:
			m.probe(ctx)
			probed = true
		case <-m.shelf.want:
		case <-sweep:
			m.shelf.sweep()
		}
		m.fill(ctx)
		// A failed probe kicks again: while the member is suspect the timer
		// says when, not the kick.
		m.unkick()
		pause := m.health.Interval
		if m.suspect() {
			pause = min(pause, suspicion)
		}
		// What concerns the shelf alone never puts the probe off: a member
		// that is out has nothing but that to come back by.
		if at := time.Now().Add(pause); probed || at.Before(due) {
			due = at
			next.Reset(pause)
		}
	}
}

// unkick forgets a probe that was asked for and has just been made.
func (m *member) unkick() {
	select {
	case <-m.kick:
	default:
	}
}

// probe makes a handshake and keeps the connection if there is room for it.
func (m *member) probe(ctx context.Context) {
	bounded, cancel := context.WithTimeout(ctx, m.health.Timeout)
	defer cancel()
	p, fail := m.fresh(bounded, Origin{})
	switch {
	case fail == nil:
		m.shelf.put(p)
	case ctx.Err() == nil:
		m.failed(fail)
	}
}

// fill opens connections until the shelf is full or one fails.
func (m *member) fill(ctx context.Context) {
	for ctx.Err() == nil && m.isUp() && !m.suspect() && m.shelf.lacks() {
		m.probe(ctx)
	}
}
