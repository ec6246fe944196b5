package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cleversocks/conn/cause"
)

// servedPools are pools whose reactors run until they are closed.
func servedPools(o PoolOptions) *Pools {
	p := NewPools(o)
	p.bareAtOnce = o.Reactors == bareReactors
	for _, r := range p.Reactors() {
		go func() { _ = r.Serve(context.Background()) }()
	}
	return p
}

// TestReactorIsServedAnew: a reactor that ended, by a panic for one, takes its
// relays up where they stood, with what came meanwhile.
func TestReactorIsServedAnew(t *testing.T) {
	for _, parks := range []bool{false, true} {
		t.Run(fmt.Sprint("parks ", parks), func(t *testing.T) { serveAnew(t, poolsWhere(parks)) })
	}
}

// poolsWhere are pools with one reactor, of a process with that processor alone, or
// with more.
func poolsWhere(parks bool) *Pools {
	processors := 2
	if parks {
		processors = 1
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(processors))
	return NewPools(PoolOptions{Reactors: 1})
}

// TestReactorLeavesTheOnlyProcessor: blocked in its system call, a reactor kept it, and
// beside a busy tunnel datagrams, TLS and the admin port waited for 13 to 33 ms.
func TestReactorLeavesTheOnlyProcessor(t *testing.T) {
	for _, parks := range []bool{false, true} {
		pools := poolsWhere(parks)
		if is := pools.Reactors()[0].park != nil; is != parks {
			t.Errorf("parks: %v, want %v", is, parks)
		}
		pools.Close()
	}
}

// TestReactorIsClosed: its descriptors are free when it is not served any more, by
// then or later, and nobody uses them afterwards.
func TestReactorIsClosed(t *testing.T) {
	for _, parks := range []bool{false, true} {
		pools := poolsWhere(parks)
		r := pools.Reactors()[0]
		ended := make(chan error, 1)
		go func() { ended <- r.Serve(t.Context()) }()
		eventually(t, "the reactor is served", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.serving
		})
		pools.Close()
		select {
		case err := <-ended:
			if !errors.Is(err, os.ErrClosed) {
				t.Errorf("ended with %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("Serve does not end")
		}
		if _, err := unix.FcntlInt(uintptr(r.bell), unix.F_GETFD, 0); err == nil {
			t.Error("the bell is open")
		}
		if _, err := unix.FcntlInt(uintptr(r.epoll), unix.F_GETFD, 0); err == nil {
			t.Error("its epoll is open")
		}
		if err := r.Serve(t.Context()); !errors.Is(err, os.ErrClosed) {
			t.Errorf("is served again: %v", err)
		}
		if err := r.Seat(nil).Watch(0, ClientSide, Arrivals); !errors.Is(err, os.ErrClosed) {
			t.Errorf("watches: %v", err)
		}
	}
}

func serveAnew(t *testing.T, pools *Pools) {
	t.Helper()
	reactor := pools.Reactors()[0]
	var served sync.WaitGroup
	serve := func() (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		served.Go(func() {
			if err := reactor.Serve(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("ended with %v", err)
			}
		})
		return func() { cancel(); served.Wait() }
	}
	tun := open(t, tcpPair, Options{Pools: pools})
	stop := serve()
	send(t, tun.client, []byte("x"))
	wantRead(t, tun.server, "x")
	stop()
	send(t, tun.client, []byte("y"))
	closeWrite(t, tun.server)
	// As if the events had been taken, and lost by a panic.
	reactor.look()
	stop = serve()
	wantRead(t, tun.server, "y")
	wantEOF(t, tun.client)
	shut(tun.client)
	tun.wantEnd(t, cause.ServerClosed)
	stop()
}

func (p *Pools) reactorsRunning() int { return len(p.reactors.all) }

// bulkGoroutines is how many pumps have a goroutine of their own now, in the
// whole process.
func bulkGoroutines() int {
	stacks := make([]byte, 1<<20)
	return bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("(*pump).run("))
}

// TestBulkDetaches: a bulk transfer gets a goroutine, and gives it back when
// small messages follow, or silence does.
func TestBulkDetaches(t *testing.T) {
	for _, after := range []string{"small messages", "silence"} {
		t.Run(after, func(t *testing.T) {
			tun := open(t, tcpPair, Options{Idle: time.Second, Pools: servedPools(PoolOptions{Reactors: 1})})
			block := make([]byte, 1<<20)
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				for range 64 {
					_, _ = tun.server.Write(block)
				}
			}()
			seen := 0
			for range 64 {
				if _, err := io.CopyN(io.Discard, tun.client, 1<<20); err != nil {
					t.Fatal(err)
				}
				seen = max(seen, bulkGoroutines())
			}
			<-sent
			if seen != 1 {
				t.Errorf("%d goroutines of bulk transfers at most, want 1", seen)
			}
			if after == "silence" {
				eventually(t, "the goroutine's end", func() bool { return bulkGoroutines() == 0 })
			} else {
				eventually(t, "the goroutine's end", func() bool {
					send(t, tun.server, []byte("x"))
					wantRead(t, tun.client, "x")
					return bulkGoroutines() == 0
				})
			}
			// And the relay still works.
			shut(tun.client)
			wantEOF(t, tun.server)
			shut(tun.server)
			tun.wantEnd(t, cause.ClientClosed)
		})
	}
}

// TestEndDuringBulk ends a transfer in full flow from each corner.
func TestEndDuringBulk(t *testing.T) {
	fire := errors.New("fire")
	tests := []struct {
		name  string
		end   func(*testing.T, *testTunnel)
		meter func() Meter
		cause string
	}{
		{name: "cancel", end: func(_ *testing.T, tun *testTunnel) { tun.cancel(ErrRevoked) }, cause: cause.Revoked},
		{name: "client resets", end: func(t *testing.T, tun *testTunnel) { t.Helper(); reset(t, tun.client) }, cause: cause.ClientReset},
		{name: "meter", meter: meterUntil(32<<20, ErrQuota), cause: cause.Quota},
		{name: "meter fails", meter: meterUntil(32<<20, fire), cause: cause.Error},
		{name: "meter panics", meter: meterUntil(32<<20, nil), cause: cause.Error},
	}
	for _, o := range []PoolOptions{{Reactors: 1}, {Reactors: bareReactors}, {Reactors: -1}} {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				options := Options{Pools: servedPools(o)}
				if tt.meter != nil {
					options.Meter = tt.meter()
				}
				tun := open(t, tcpPair, options)
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					block := bytes.Repeat([]byte("x"), 1<<20)
					for {
						if _, err := tun.server.Write(block); err != nil {
							return
						}
					}
				}()
				if _, err := io.CopyN(io.Discard, tun.client, 24<<20); err != nil {
					t.Fatal(err)
				}
				if tt.end != nil {
					tt.end(t, tun)
				}
				_, _ = io.Copy(io.Discard, tun.client)
				tun.wantEnd(t, tt.cause)
				<-sent
			})
		}
	}
}

// meterUntil lets some bytes by, then fails, or panics when there is no error.
func meterUntil(limit int64, failure error) func() Meter {
	return func() Meter { return &untilMeter{limit: limit, failure: failure} }
}

type untilMeter struct {
	limit   int64
	failure error
	moved   atomic.Int64
}

func (m *untilMeter) Reserve(_ Direction, n int) (int, time.Duration, error) {
	if m.moved.Load() < m.limit {
		return n, 0, nil
	}
	if m.failure == nil {
		panic("boom")
	}
	return 0, 0, m.failure
}

func (m *untilMeter) Settle(_ Direction, _, moved int) { m.moved.Add(int64(moved)) }

// panicky is a guest that does not contain its panics.
type panicky struct{ turns atomic.Int32 }

func (p *panicky) Turn(Side, uint32) {
	if p.turns.Add(1) == 1 {
		panic("a guest's")
	}
}

// TestReactorSurvivesAPanic: a panic that nobody contains ends Serve, which its
// supervisor calls again. No lock is held then, and relays and rings go on.
func TestReactorSurvivesAPanic(t *testing.T) {
	for _, parks := range []bool{false, true} {
		t.Run(fmt.Sprint("parks ", parks), func(t *testing.T) {
			pools := poolsWhere(parks)
			r := pools.Reactors()[0]
			ctx, cancel := context.WithCancel(t.Context())
			var served sync.WaitGroup
			panics := make(chan any, 1)
			once := func() {
				defer func() {
					if v := recover(); v != nil {
						panics <- v
					}
				}()
				_ = r.Serve(ctx)
			}
			served.Go(func() {
				for ctx.Err() == nil {
					once()
				}
			})
			tun := open(t, tcpPair, Options{Pools: pools})
			send(t, tun.client, []byte("x"))
			wantRead(t, tun.server, "x")
			var guest panicky
			seat := r.Seat(&guest)
			seat.Ring()
			<-panics
			send(t, tun.client, []byte("y"))
			wantRead(t, tun.server, "y")
			n := guest.turns.Load()
			seat.Ring()
			eventually(t, "the guest's next turn", func() bool { return guest.turns.Load() > n })
			seat.Leave()
			shut(tun.client)
			wantEOF(t, tun.server)
			shut(tun.server)
			tun.wantEnd(t, cause.ClientClosed)
			cancel()
			served.Wait()
		})
	}
}
