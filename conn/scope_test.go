package conn

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"cleversocks/conn/relay"
)

// TestScopeIsNeverDeaf: whoever ends a session just when its tunnel takes over
// ends the tunnel. Before the relay the scope is a context like others.
func TestScopeIsNeverDeaf(t *testing.T) {
	for i := range 300 {
		var s scope
		ctx, cancel := s.begin(t.Context()), s.end
		child, stop := context.WithCancelCause(ctx)
		client, a := net.Pipe()
		server, b := net.Pipe()
		over := make(chan relay.Result, 1)
		tunnel := relay.Start(a, b, relay.Options{}, func(r relay.Result) { over <- r })
		var both sync.WaitGroup
		both.Go(func() { cancel(relay.ErrRevoked) })
		if i%3 == 0 {
			both.Wait() // before
			if why := context.Cause(child); !errors.Is(why, relay.ErrRevoked) {
				t.Fatalf("a child ended with %v", why)
			}
		}
		both.Go(func() { s.handTo(tunnel) })
		if r := <-over; r.Cause != relay.ErrRevoked.Cause {
			t.Fatalf("the tunnel ended with %+v", r)
		}
		both.Wait()
		if ctx.Err() == nil {
			t.Fatal("an ended scope looks open")
		}
		cancel(nil)
		stop(nil)
		client.Close()
		server.Close()
	}
}

// A tunnel that ended before the session had handed its scope over took the scope
// out of whose hands it was: it stayed among its parent's children, for ever.
func TestScopeLeavesItsParent(t *testing.T) {
	g, _ := newTestGroup(t, true)
	s := &session{policy: g.Policy()}
	s.ctx = s.scope.begin(t.Context())
	child := s.scope.inner()
	client, a := net.Pipe()
	server, b := net.Pipe()
	client.Close()
	server.Close()
	options, done := g.handler.tunnel(s, func(s *session) { s.cancel(nil) })
	over := make(chan struct{})
	tunnel := relay.Start(a, b, options, func(r relay.Result) { done(r); close(over) })
	<-over
	s.handTo(tunnel)
	if child.Err() == nil {
		t.Error("the scope is its parent's child still")
	}
}

// ringing counts rings.
type ringing struct{ rings int }

func (r *ringing) Ring() { r.rings++ }

// A group may be told to end all of its sessions when one is let in that has no
// context yet: a reactor's one heard of nothing, and the drain waited for it.
func TestEndOfAllMeetsLateSessions(t *testing.T) {
	g, _ := newTestGroup(t, true)
	for _, onReactor := range []bool{true, false} {
		s := &session{started: time.Now()}
		if reason := g.add(s); reason != "" {
			t.Fatal(reason)
		}
		g.endTunnels(relay.ErrDrained)
		var r ringing
		if onReactor {
			g.beginWith(&r, s)
		} else {
			s.ctx = s.scope.begin(g.base)
			g.began(s)
		}
		if why := context.Cause(s.ctx); !errors.Is(why, relay.ErrDrained) && !errors.Is(s.ctx.Err(), relay.ErrDrained) {
			t.Errorf("on a reactor %v: goes on, %v", onReactor, s.ctx.Err())
		}
		if onReactor && r.rings != 1 {
			t.Errorf("rung for %d times", r.rings)
		}
		g.end(s)
	}
}
