package conn

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"cleversocks/aclsvc"
	"cleversocks/conn/cause"
	"cleversocks/conn/relay"
	"cleversocks/conn/wire"
)

// Sessions are the connections of now, in no order. Of those that still shake
// hands only the client is known.
func (g *Group) Sessions() []*Record {
	g.mu.Lock()
	list := make([]*session, 0, len(g.sessions))
	for s := range g.sessions {
		list = append(list, s)
	}
	g.mu.Unlock()
	records := make([]*Record, 0, len(list))
	for _, s := range list {
		records = append(records, s.glance())
	}
	return records
}

// glance is what may be read of a session from any goroutine.
func (s *session) glance() *Record {
	if s.relaying.Load() {
		return s.progress()
	}
	if s.waiting.Load() {
		return s.waitingRecord()
	}
	return &Record{ID: s.ID(), Listener: s.listener, Client: s.client, Peer: s.atDoor().peer, Started: s.started, Handshake: true, Requests: s.leaves.Load() != nil}
}

// waitingRecord is what may be read of a BIND that waits for its peer.
func (s *session) waitingRecord() *Record {
	return &Record{
		ID: s.ID(), Listener: s.listener, Client: s.client, Peer: s.atDoor().peer,
		User: s.identity.User, Auth: string(s.identity.Method), Notes: noted(s.atDoor().notes),
		Protocol: s.protocol, Command: s.request.Command, Target: s.request.Dest, Local: s.local,
		Duration: time.Since(s.started), Started: s.started,
	}
}

// killing is what an operator has ended, for sessions of before of which nobody
// knew yet whose they are.
type killing struct {
	at      time.Time
	matches func(*Record) bool
}

// Bounds of the killings that are remembered: no handshake takes longer.
const (
	killingLife = time.Minute
	maxKillings = 64
)

// Kill ends the connections that match, as revoked ones, and returns how many.
// One that still shakes hands is looked at when its request is granted.
func (g *Group) Kill(ctx context.Context, matches func(*Record) bool) int {
	now := time.Now()
	g.mu.Lock()
	for len(g.killings) > 0 && (len(g.killings) >= maxKillings || now.Sub(g.killings[0].at) > killingLife) {
		g.killings = g.killings[1:]
	}
	g.killings = append(g.killings, killing{now, matches})
	list := make([]*session, 0, len(g.sessions))
	for s := range g.sessions {
		list = append(list, s)
	}
	g.mu.Unlock()
	n := 0
	for _, s := range list {
		if r := s.glance(); matches(r) {
			g.kill(ctx, s, r)
			n++
		}
	}
	return n
}

func (g *Group) kill(ctx context.Context, s *session, r *Record) {
	s.cancel(relay.ErrRevoked)
	g.log.LogAttrs(ctx, slog.LevelInfo, "session closed by an operator",
		slog.String("id", r.ID), slog.String("client", r.Caller()), slog.String("user", r.User), slog.String("target", r.Target.String()))
}

// killLate ends a session that an operator has ended while it shook hands. list is
// what there was when others could see whose it is.
func (g *Group) killLate(s *session, list []killing) {
	for _, k := range list {
		if !s.started.Before(k.at) {
			continue
		}
		if r := s.progress(); k.matches(r) {
			g.kill(s.ctx, s, r)
			return
		}
	}
}

// Accepted is how many connections have come so far, refused ones included.
func (g *Group) Accepted() uint64 { return g.nextID.Load() - g.before.Load() }

// Numbered is how many sessions have got an id, in this process and in those
// whose numbers it goes on with.
func (g *Group) Numbered() uint64 { return g.nextID.Load() }

// NumberFrom has ids go on behind those of a predecessor, whose sessions are
// listed beside the ones here. Call it before the first Admit.
func (g *Group) NumberFrom(n uint64) {
	g.before.Store(n)
	g.nextID.Store(n)
}

// Opening is how many connections do not relay yet: they may still ask for what
// is limited.
func (g *Group) Opening() (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for s := range g.sessions {
		if !s.relaying.Load() {
			n++
		}
	}
	return n
}

// Limit is how many connections there may be.
func (g *Group) Limit() int { return int(g.limit.Load()) }

// Watch has f told of every connection that ends, recorded or not, and while
// wanted says so of those that begin to relay. It is called by one goroutine,
// AccessLog.Serve's, and must not wait. Call it before Serve.
func (a *AccessLog) Watch(f func(*Record), wanted func() bool) {
	a.watcher, a.wanted = f, wanted
}

// opened tells the watcher of a session that begins to relay.
func (a *AccessLog) opened(s *session) {
	if a != nil && a.watcher != nil && a.wanted() {
		r := s.progress()
		r.Opened = true
		a.enqueue(r)
	}
}

// reported tells the watcher what rules would have refused a session.
func (a *AccessLog) reported(s *session, d aclsvc.Decision, dest wire.Addr, addr netip.Addr) {
	if a != nil && a.watcher != nil {
		r := s.progress()
		r.Target, r.Rule, r.Reported = dest, d.Rule, &Denial{Where: d.Where, Address: addr}
		a.enqueue(r)
	}
}

// refusedNow tells the watcher what rules refused to a session that goes on.
func (a *AccessLog) refusedNow(s *session, denied *deniedError, dest wire.Addr) {
	if a != nil && a.watcher != nil {
		r := s.progress()
		r.Target, r.Rule, r.Dropped = dest, denied.rule, &Denial{Where: denied.where, Address: denied.addr}
		a.enqueue(r)
	}
}

// Denial is what rules refused, beside the record's Rule.
type Denial struct {
	Where   string     // the rule's "file:line"; "": it has no line
	Address netip.Addr // that was judged; not valid: the name alone was
}

// Denied is how rules refused the request; nil: they did not. A log-in that failed
// and a limit that was met are denied too, and by no rule: what strangers ask for
// is nothing to make rules of.
func (r *Record) Denied() *Denial {
	refused, ok := errors.AsType[*deniedError](r.Err)
	if !ok || r.Cause != cause.Denied {
		return nil
	}
	return &Denial{refused.where, refused.addr}
}
