package udprelay

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"

	"cleversocks/conn/cause"
	"cleversocks/conn/wire"
)

// With client_ports = "first" the first port to speak is the client's, until it
// has been silent for so long that its NAT will have given it another.
func TestFirstPortOnly(t *testing.T) {
	a := &association{o: RelayOptions{FirstPortOnly: true}, routes: newRoutes()}
	first := endpointOf(netip.MustParseAddrPort("192.0.2.1:1000"))
	second := endpointOf(netip.MustParseAddrPort("192.0.2.1:2000"))
	steps := []struct {
		at   int64
		from endpoint
		want bool
	}{
		{0, first, true},
		{1, second, false},
		{rebindAfter - 1, first, true},
		{2*rebindAfter - 2, second, false},
		{2*rebindAfter - 1, second, true},
		{2 * rebindAfter, first, false},
	}
	for i, s := range steps {
		p, what := a.portOf(&s.from, s.at)
		if (p != nil) != s.want || !s.want && what != wrongClient {
			t.Errorf("step %d: %v, %v; want %v", i, p, what, s.want)
		}
		if p == nil {
			continue
		}
		p.heard.Store(s.at)
		if *p.at.Load() != s.from {
			t.Errorf("step %d: replies go elsewhere", i)
		}
	}
}

// An association ends at once however much is on its way, both ways and
// through a name that is still being resolved.
func TestEndsUnderAFlood(t *testing.T) {
	shutdown := errors.New("shutting down")
	r := New(RelayOptions{})
	for range 5 {
		h := associate(t, r, func(s *Request) {
			s.Resolve = func(ctx context.Context, _ wire.Addr) ([]netip.Addr, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		})
		at := echo(t, loopback4)
		h.roundTrip(t, to(at), at, "up")
		flood, name := wrap(t, to(at), make([]byte, 1200)), wrap(t, wire.Addr{Name: "a.example", Port: 53}, nil)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					_, _ = h.udp.WriteToUDPAddrPort(flood, h.bound)
					_, _ = h.udp.WriteToUDPAddrPort(name, h.bound)
				}
			})
		}
		for range 100 {
			h.receive(t)
		}
		h.cancel(shutdown)
		if res := h.wait(t); res.Cause != cause.Drained || res.DatagramsIn < 100 {
			t.Errorf("%+v", res)
		}
		close(stop)
		wg.Wait()
		if held := len(r.pool.tokens); held != 0 {
			t.Fatalf("%d batches are held", held)
		}
	}
}
