package conn

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"

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
