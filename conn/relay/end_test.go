//go:build linux

package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cleversocks/conn/cause"
	"cleversocks/metrics"
)

// TestCancel ends a moving relay from outside, with each kind of reason.
func TestCancel(t *testing.T) {
	other := errors.New("the house is on fire")
	tests := []struct {
		name  string
		with  error
		cause string
	}{
		{"drained", ErrDrained, cause.Drained},
		{"revoked", ErrRevoked, cause.Revoked},
		{"quota, wrapped", errors.Join(other, ErrQuota), cause.Quota},
		{"no reason", nil, cause.Drained},
		{"another error", other, cause.Drained},
	}
	for _, tt := range tests {
		for _, k := range kinds {
			t.Run(tt.name+" "+k.name, func(t *testing.T) {
				tun := open(t, k.pair, Options{Engine: k.engine, Pools: servedPools(PoolOptions{Reactors: k.reactors})})
				send(t, tun.client, []byte("x"))
				wantRead(t, tun.server, "x")
				tun.cancel(tt.with)
				r := tun.wantEnd(t, tt.cause)
				want := tt.with
				if want == nil {
					want = context.Canceled
				}
				if !errors.Is(r.Err, want) {
					t.Errorf("error %v, want %v", r.Err, want)
				}
				_, err := tun.client.Read(make([]byte, 1))
				if _, tcp := tun.client.(*net.TCPConn); tcp && !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the client saw %v: a stream cut short must not look complete", err)
				}
			})
		}
	}
}

// TestCancelledBefore starts a relay whose context is over.
func TestCancelledBefore(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(ErrRevoked)
	client, a := tcpPair(t)
	server, b := tcpPair(t)
	defer shut(client)
	defer shut(server)
	if r := run(ctx, a, b, Options{}); r.Cause != cause.Revoked {
		t.Errorf("got %+v", r)
	}
}

// TestCancelWhileBlocked cancels a relay whose receiver does not read.
func TestCancelWhileBlocked(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			tun := open(t, k.pair, Options{Engine: k.engine, Pools: servedPools(PoolOptions{Reactors: k.reactors})})
			fill(t, tun)
			tun.cancel(ErrDrained)
			tun.wantEnd(t, cause.Drained)
		})
	}
}

// fill writes to the server until nothing moves for a while, and says how much
// that took.
func fill(t *testing.T, tun *testTunnel) int {
	t.Helper()
	total, block := 0, make([]byte, 64<<10)
	for {
		if err := tun.server.SetWriteDeadline(time.Now().Add(150 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, err := tun.server.Write(block)
		total += n
		if err != nil {
			return total
		}
		if total > 256<<20 {
			t.Fatal("a receiver that does not read exerts no backpressure")
		}
	}
}

// TestReceiverThatDoesNotRead is bounded in memory, and goes on when the
// receiver reads again.
func TestReceiverThatDoesNotRead(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			tun := open(t, k.pair, Options{Engine: k.engine, Pools: servedPools(PoolOptions{Reactors: k.reactors})})
			// Queues of four sockets, autotuned, and one pipe.
			if n := fill(t, tun); n > 64<<20 {
				t.Errorf("took %d bytes for a client that does not read", n)
			} else {
				closeWrite(t, tun.server)
				got, err := io.Copy(io.Discard, tun.client)
				if err != nil || got != int64(n) {
					t.Errorf("then delivered %d of %d bytes, %v", got, n, err)
				}
			}
			shut(tun.client)
			tun.wantEnd(t, cause.ServerClosed)
		})
	}
}

// TestIdle runs on a fake clock: a byte in either direction keeps both alive,
// and silence ends them between one timeout and a quarter more.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const idle = time.Minute
		client, a := net.Pipe()
		server, b := net.Pipe()
		result := make(chan Result, 1)
		go func() { result <- run(t.Context(), a, b, Options{Idle: idle}) }()
		for range 10 {
			time.Sleep(idle * 9 / 10) //nolint:forbidigo // moves the fake clock
			send(t, server, []byte("x"))
			wantRead(t, client, "x")
		}
		last := time.Now()
		r := <-result
		quiet := time.Since(last)
		if r.Cause != cause.Idle || r.Err != nil || r.Out != 10 {
			t.Errorf("got %+v", r)
		}
		if quiet < idle || quiet > idle*5/4 {
			t.Errorf("ended after %v of silence, want %v to %v", quiet, idle, idle*5/4)
		}
	})
}

// TestIdleSockets ends a half-closed relay over real sockets.
func TestIdleSockets(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			tun := open(t, k.pair, Options{Engine: k.engine, Pools: servedPools(PoolOptions{Reactors: k.reactors}), Idle: 40 * time.Millisecond})
			closeWrite(t, tun.client)
			wantEOF(t, tun.server)
			tun.wantEnd(t, cause.Idle)
			wantEOF(t, tun.client)
		})
	}
}

// TestMeterPause holds a direction up without ending it as idle, and an error
// of the meter ends the relay with its cause.
func TestMeterPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, a := net.Pipe()
		server, b := net.Pipe()
		var metered atomic.Int64
		meter := meterFunc(func(d Direction, n int) (time.Duration, error) {
			if d != Out {
				t.Errorf("metered %v", d)
			}
			if metered.Add(int64(n)) > 3 {
				return 0, ErrQuota
			}
			return time.Hour, nil
		})
		result := make(chan Result, 1)
		go func() { result <- run(t.Context(), a, b, Options{Idle: time.Minute, Meter: meter}) }()
		begin := time.Now()
		for range 3 {
			send(t, server, []byte("x"))
			wantRead(t, client, "x")
		}
		send(t, server, []byte("x")) // is not delivered
		r := <-result
		if r.Cause != cause.Quota || !errors.Is(r.Err, ErrQuota) || r.Out != 3 {
			t.Errorf("got %+v", r)
		}
		if took := time.Since(begin); took < 3*time.Hour {
			t.Errorf("3 pauses of an hour took %v", took)
		}
	})
}

// TestCancelDuringPause does not wait for the meter's pause.
func TestCancelDuringPause(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			paused := make(chan struct{})
			tun := open(t, k.pair, Options{Engine: k.engine, Pools: servedPools(PoolOptions{Reactors: k.reactors}), Meter: holdsUp(paused)})
			send(t, tun.client, []byte("x"))
			<-paused
			tun.cancel(ErrRevoked)
			tun.wantEnd(t, cause.Revoked)
		})
	}
}

// TestPanic is recovered on the relay's goroutine and ends that relay alone.
func TestPanic(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			var told atomic.Value
			tun := open(t, k.pair, Options{
				Engine: k.engine, Pools: servedPools(PoolOptions{Reactors: k.reactors}),
				Meter:    broken{},
				Panicked: func(v any) { told.Store(v) },
			})
			send(t, tun.client, []byte("x"))
			r := tun.wantEnd(t, cause.Error)
			if told.Load() != "boom" || !errors.Is(r.Err, errPanic) {
				t.Errorf("told %v, error %v", told.Load(), r.Err)
			}
		})
	}
}

// TestMetrics counts bytes while they move, and the end.
func TestMetrics(t *testing.T) {
	registry := metrics.New()
	tun := open(t, tcpPair, Options{Metrics: &registry.Relay})
	send(t, tun.client, []byte("abc"))
	wantRead(t, tun.server, "abc")
	send(t, tun.server, []byte("defgh"))
	wantRead(t, tun.client, "defgh")
	shut(tun.client)
	wantEOF(t, tun.server)
	shut(tun.server)
	tun.wantEnd(t, cause.ClientClosed)
	in, out := registry.Relay.BytesIn.Get(), registry.Relay.BytesOut.Get()
	ends := registry.Relay.End.Of(cause.ClientClosed).Get()
	if in != 3 || out != 5 || ends != 1 {
		t.Errorf("counted %d bytes in, %d out, %d ends", in, out, ends)
	}
}

// TestPanicInDone: a defect in what is called at the end of one relay ended the
// daemon.
func TestPanicInDone(t *testing.T) {
	pools := servedPools(PoolOptions{Reactors: 1})
	other := open(t, tcpPair, Options{Pools: pools})
	client, a := tcpPair(t)
	server, b := tcpPair(t)
	told := make(chan any, 1)
	Start(a, b, Options{Pools: pools, Panicked: func(v any) { told <- v }}, func(Result) { panic("boom") })
	shut(client)
	wantEOF(t, server)
	shut(server)
	select {
	case v := <-told:
		if v != "boom" {
			t.Errorf("told of %v", v)
		}
	case <-time.After(patience):
		t.Error("nobody was told")
	}
	send(t, other.client, []byte("x"))
	wantRead(t, other.server, "x")
}
