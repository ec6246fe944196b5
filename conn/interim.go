package conn

import (
	"context"
	"time"
)

// Interim records long connections while they last (log.interim), so that a
// tunnel of days is seen before it ends.
type Interim struct {
	group   *Group
	every   func() time.Duration // 0: never
	changed chan struct{}        // 1: every may have changed
}

// NewInterim makes the service for a group's connections. every is asked
// before each round.
func NewInterim(g *Group, every func() time.Duration) *Interim {
	return &Interim{group: g, every: every, changed: make(chan struct{}, 1)}
}

func (i *Interim) String() string { return "interim records" }

// Reconsider makes Serve ask again how often to record. It never blocks.
func (i *Interim) Reconsider() {
	select {
	case i.changed <- struct{}{}:
	default:
	}
}

// Serve records every connection that is older than the interval, once an
// interval, until ctx ends.
func (i *Interim) Serve(ctx context.Context) error {
	for {
		var due <-chan time.Time
		stop := func() bool { return true }
		interval := i.every()
		if interval > 0 {
			timer := time.NewTimer(interval)
			due, stop = timer.C, timer.Stop
		}
		select {
		case now := <-due:
			i.round(now.Add(-interval))
		case <-i.changed:
		case <-ctx.Done():
			stop()
			return ctx.Err()
		}
		stop()
	}
}

func (i *Interim) round(before time.Time) {
	for _, s := range i.group.established(before) {
		i.group.access.LogInterim(s.progress())
	}
}

// established are the sessions that relay and began before a time.
func (g *Group) established(before time.Time) []*session {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []*session
	for s := range g.sessions {
		if s.relaying.Load() && s.started.Before(before) {
			list = append(list, s)
		}
	}
	return list
}

// LogInterim queues a record of a connection that goes on. It never blocks.
func (a *AccessLog) LogInterim(r *Record) {
	if a.mode.Load() == AccessAll {
		r.Interim = true
		a.enqueue(r)
	}
}

// message is what the line says.
func (r *Record) message() string {
	switch {
	case r.refusal != nil:
		return r.refusal.message()
	case r.flow != nil:
		return "datagrams"
	case r.Interim:
		return "connection goes on"
	}
	return "connection"
}
