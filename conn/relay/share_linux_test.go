package relay

import (
	"bytes"
	"crypto/sha256"
	"io"
	"testing"
)

// TestStuckPipesAreShared: 230 clients that never read pinned all the pipes,
// and an honest transfer had to be copied, at five times the cost.
func TestStuckPipesAreShared(t *testing.T) {
	const pipes, selfish = 8, 24
	pools := servedPools(PoolOptions{Pipes: pipes, Reactors: 1})
	honest := open(t, tcpPair, Options{Pools: pools}) // closes the pools, last
	block := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	var stuck []*testTunnel
	for range selfish {
		client, a := tcpPair(t)
		server, b := tcpPair(t)
		counters := new(Counters)
		ended := make(chan Result, 1)
		Start(a, b, Options{Pools: pools, Counters: counters}, func(r Result) { ended <- r })
		tun := &testTunnel{client: client, server: server, counters: counters, result: ended}
		t.Cleanup(func() { shut(tun.client); shut(tun.server); tun.wait(t) })
		stuck = append(stuck, tun)
	}
	sent := make([]int, selfish)
	for i, tun := range stuck {
		sent[i] = fill(t, tun)
	}
	if n := pools.pipes.stuck.Load(); n > pipes/2 {
		t.Errorf("%d of %d pipes are stuck", n, pipes)
	}
	free := func() int {
		pools.mu.Lock()
		defer pools.mu.Unlock()
		return pipes - pools.pipes.open + len(pools.pipes.free)
	}
	if free() < pipes/2 {
		t.Errorf("%d of %d pipes are left for others", free(), pipes)
	}
	// The honest one works, and what was put aside arrives whole.
	go func() { _, _ = honest.server.Write(block) }()
	if _, err := io.CopyN(io.Discard, honest.client, int64(len(block))); err != nil {
		t.Fatal(err)
	}
	for i, tun := range stuck {
		closeWrite(t, tun.server)
		got, want := sha256.New(), sha256.New()
		n, err := io.Copy(got, tun.client)
		if err != nil || n != int64(sent[i]) {
			t.Errorf("%d of %d bytes, %v", n, sent[i], err)
		}
		_, _ = io.Copy(want, io.LimitReader(zeros{}, n))
		if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
			t.Error("other bytes than were sent")
		}
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
