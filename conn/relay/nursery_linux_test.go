package relay

import (
	"bytes"
	"io"
	"runtime"
	"testing"
	"time"

	"cleversocks/metrics"
)

// size is how many relays are in the nursery.
func (n *nursery) size() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.count
}

// stayers is how many of them stay longer.
func (n *nursery) stayers() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.busy
}

// TestYoungRelayGrowsUp: a relay that lasts leaves its goroutines for the
// reactor, in whatever it was doing, and works on.
func TestYoungRelayGrowsUp(t *testing.T) {
	tests := []struct {
		name   string
		before func(*testing.T, *tunnel)
		after  func(*testing.T, *tunnel)
	}{
		{name: "silent"},
		{
			name:   "half-closed",
			before: func(t *testing.T, tun *tunnel) { t.Helper(); closeWrite(t, tun.server); wantEOF(t, tun.client) },
		},
		{
			name:   "with a receiver that does not read",
			before: func(t *testing.T, tun *tunnel) { t.Helper(); fill(t, tun) },
			after: func(t *testing.T, tun *tunnel) {
				t.Helper()
				closeWrite(t, tun.server)
				if n, err := io.Copy(io.Discard, tun.client); err != nil || n != tun.counters.Out.Load() {
					t.Errorf("read %d of %d bytes, %v", n, tun.counters.Out.Load(), err)
				}
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pools := NewPools(PoolOptions{Reactors: 1})
			baseline := runtime.NumGoroutine()
			tun := open(t, tcpPair, Options{Pools: pools, Idle: time.Minute})
			if tt.before != nil {
				tt.before(t, tun)
			}
			eventually(t, "the end of youth", func() bool { return pools.nursery.size() == 0 })
			if tt.after != nil {
				tt.after(t, tun)
			}
			eventually(t, "the goroutines' end", func() bool { return runtime.NumGoroutine() <= baseline })
			send(t, tun.client, []byte("up"))
			wantRead(t, tun.server, "up")
			shut(tun.client)
			wantEOF(t, tun.server)
			shut(tun.server)
			if r := tun.wait(t); r.In != 2 || r.Err != nil {
				t.Errorf("got %+v", r)
			}
		})
	}
}

// TestYoungRelayMovesInFlow has relays grow up in the middle of messages and
// of a bulk transfer, and loses no byte.
func TestYoungRelayMovesInFlow(t *testing.T) {
	for _, size := range []int{100, 1 << 20} {
		pools := NewPools(PoolOptions{Reactors: 1})
		pools.nursery.busy = maxBusy // others have all the places
		tun := open(t, tcpPair, Options{Pools: pools})
		block := bytes.Repeat([]byte("x"), size)
		got := make([]byte, size)
		rounds := 0
		eventually(t, "the end of youth", func() bool {
			rounds++
			go func() { _, _ = tun.server.Write(block) }()
			if _, err := io.ReadFull(tun.client, got); err != nil {
				t.Fatal(err)
			}
			return pools.nursery.size() == 0
		})
		shut(tun.client)
		wantEOF(t, tun.server)
		shut(tun.server)
		r := tun.wantEnd(t, metrics.CauseClientClosed)
		if r.Out != int64(rounds*size) {
			t.Errorf("%d bytes in %d rounds of %d", r.Out, rounds, size)
		}
	}
}

// TestBusyRelayStays: a relay that moves bytes keeps its goroutines, until it
// falls silent.
func TestBusyRelayStays(t *testing.T) {
	pools := NewPools(PoolOptions{Reactors: 1})
	tun := open(t, tcpPair, Options{Pools: pools})
	eventually(t, "to be busy", func() bool {
		send(t, tun.client, []byte("x"))
		wantRead(t, tun.server, "x")
		return pools.nursery.stayers() == 1
	})
	eventually(t, "the end of youth", func() bool { return pools.nursery.size() == 0 })
	if n := pools.nursery.stayers(); n != 0 {
		t.Errorf("%d stay of none", n)
	}
	send(t, tun.client, []byte("y"))
	wantRead(t, tun.server, "y")
}

// TestNurseryIsBounded: one relay too many goes to its reactor at once, and a
// relay that ends makes room.
func TestNurseryIsBounded(t *testing.T) {
	pools := NewPools(PoolOptions{Reactors: 1, Young: 1})
	first := open(t, tcpPair, Options{Pools: pools})
	eventually(t, "the first", func() bool { return pools.nursery.size() == 1 })
	client, a := tcpPair(t)
	server, b := tcpPair(t)
	ended := make(chan Result, 1)
	Start(t.Context(), a, b, Options{Pools: pools}, func(r Result) { ended <- r }) // returns
	shut(client)
	wantEOF(t, server)
	shut(server)
	<-ended
	shut(first.client)
	wantEOF(t, first.server)
	shut(first.server)
	first.wait(t)
	if n := pools.nursery.size(); n != 0 {
		t.Errorf("%d relays in the nursery after their end", n)
	}
}
