package conn

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/thejerf/suture/v4"

	"cleversocks/listener/transparent"
	"cleversocks/metrics"
)

// Diversion serves the datagrams that a packet filter gives a transparent listener.
// What one client sends to one destination is a flow: a session as any other,
// admitted, judged, counted and recorded, that ends when nothing moves. As a
// service it reads the listener's socket and hands each datagram to its flow.
type Diversion struct {
	group    *Group
	listener string
	socket   *transparent.Datagrams

	mu   sync.Mutex
	open map[divertedKey]*diverted
	// refused are flows that are dropped until a time, so that not each of their
	// datagrams is a session of its own.
	refused map[divertedKey]time.Time
}

type divertedKey struct{ client, dest netip.AddrPort }

// divertedQueue is how many datagrams wait for a flow's turn; more are lost, as
// they are in a full socket.
const divertedQueue = 32

// mostRefused bounds the memory of refusals.
const mostRefused = 8192

// NewDiversion serves the datagrams of a listener's socket, which stays the caller's.
func (g *Group) NewDiversion(listener string, socket *transparent.Datagrams) *Diversion {
	return &Diversion{group: g, listener: listener, socket: socket, open: make(map[divertedKey]*diverted), refused: make(map[divertedKey]time.Time)}
}

func (f *Diversion) String() string { return "datagrams of " + f.listener }

// Serve reads until ctx ends or the socket is closed. Flows go on without it, by
// sockets of their own. It may be called again.
func (f *Diversion) Serve(ctx context.Context) error {
	if err := f.socket.SetReadDeadline(time.Time{}); err != nil {
		return errors.Join(suture.ErrDoNotRestart, err)
	}
	defer context.AfterFunc(ctx, func() { _ = f.socket.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, 1<<16)
	for {
		n, client, dest, err := f.socket.Read(buf)
		switch {
		case err == nil: // even if ctx has ended meanwhile: nobody else gets it
			f.deliver(client, dest, buf[:n]) //nolint:contextcheck // a flow outlives the service
		case ctx.Err() == nil && (errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded)):
			return errors.Join(suture.ErrDoNotRestart, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// deliver gives a datagram to its flow, which it may begin.
func (f *Diversion) deliver(client, dest netip.AddrPort, payload []byte) {
	if !dest.IsValid() || dest.Port() == 0 || client.Port() == 0 {
		f.drop(metrics.UDPMalformed)
		return
	}
	key := divertedKey{client, dest}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.isRefused(key) {
		f.drop(metrics.UDPDenied)
		return
	}
	fl := f.open[key]
	if fl == nil {
		fl = &diverted{of: f, key: key, in: make(chan []byte, divertedQueue)}
		if reason := f.group.admitDiverted(fl); reason != "" {
			f.group.metrics.Listener.Refused.Of(reason).Inc()
			f.drop(metrics.UDPOverload)
			return
		}
		f.open[key] = fl
	}
	fl.take(bytes.Clone(payload))
}

func (f *Diversion) drop(outcome string) { f.group.metrics.UDP.Datagrams.Of("in", outcome).Inc() }

// ended forgets a flow, but for its refusal.
func (f *Diversion) ended(fl *diverted) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, fl.key)
	if !fl.refused {
		return
	}
	now := time.Now()
	if len(f.refused) >= mostRefused {
		maps.DeleteFunc(f.refused, func(_ divertedKey, until time.Time) bool { return now.After(until) })
	}
	if len(f.refused) < mostRefused {
		f.refused[fl.key] = now.Add(unansweredFor)
	}
}

// isRefused reports whether a flow has been refused a moment ago. The caller holds
// the lock.
func (f *Diversion) isRefused(key divertedKey) bool {
	until, known := f.refused[key]
	if known && time.Now().After(until) {
		delete(f.refused, key)
		return false
	}
	return known
}

// admitDiverted takes a flow as Admit takes a connection.
func (g *Group) admitDiverted(fl *diverted) (refused string) {
	s := &session{
		id: g.nextID.Add(1), socket: fl, conn: fl, listener: fl.of.listener, client: fl.key.client, started: time.Now(),
	}
	if reason := g.handler.door.atAccept(s); reason != "" {
		return reason
	}
	if reason := g.add(s); reason != "" {
		g.handler.guards.leave(s)
		return reason
	}
	s.ctx = s.scope.begin(g.base)
	fl.begin(s)
	g.tasks.Go(func() error { g.runDiverted(s, fl); return nil })
	return ""
}

// runDiverted is a flow's task. Whatever panics on its way, it ends.
func (g *Group) runDiverted(s *session, fl *diverted) {
	defer g.end(s)
	defer fl.of.ended(fl)
	defer func() {
		if p := recover(); p != nil {
			s.panicked(g.handler.panics, "conn", p)
		}
	}()
	fl.run(g)
}
