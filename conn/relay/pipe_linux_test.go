package relay

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"cleversocks/conn/cause"
)

func (p *Pools) pipesOpen() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pipes.open
}

// TestDirtyPipe: a pipe with bytes in it is never given to another relay.
func TestDirtyPipe(t *testing.T) {
	pools := servedPools(PoolOptions{})
	defer pools.Close()
	clean := pools.takePipe()
	pools.givePipe(clean)
	if again := pools.takePipe(); again != clean {
		t.Fatal("an empty pipe was not used again")
	}
	if _, err := unix.Write(int(clean.w), []byte("somebody's secret")); err != nil {
		t.Fatal(err)
	}
	clean.filled = 17
	pools.givePipe(clean)
	if pools.pipesOpen() != 0 {
		t.Fatal("a pipe with bytes in it was kept")
	}
	next := pools.takePipe()
	defer pools.givePipe(next)
	if n, err := unix.Read(int(next.r), make([]byte, 32)); n > 0 || err != unix.EAGAIN {
		t.Fatalf("a new pipe had %d bytes, %v", n, err)
	}
}

// TestPipesAreBounded counts those in use with those that are free. Whoever makes
// the pools hears of one that was not to be had: nobody did.
func TestPipesAreBounded(t *testing.T) {
	full := 0
	pools := servedPools(PoolOptions{Pipes: 2, Full: func() { full++ }})
	defer pools.Close()
	first, second := pools.takePipe(), pools.takePipe()
	if first == nil || second == nil || pools.takePipe() != nil {
		t.Fatal("want two pipes and no third")
	}
	if full != 1 {
		t.Errorf("told %d times", full)
	}
	pools.givePipe(first)
	if pools.takePipe() != first {
		t.Fatal("want the one that was given back")
	}
	pools.givePipe(first)
	pools.givePipe(second)
}

// TestIdlePipesAreGivenBack: after many clients that never read had left, some
// 190 free pipes kept their descriptors for ever. Those that are in use again
// and again stay, so that a busy proxy does not make pipes all the time.
func TestIdlePipesAreGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many, busy = 64, 40
		pools := NewPools(PoolOptions{Reactors: -1})
		cycle := func(n int) {
			taken := make([]*pipe, n)
			for i := range taken {
				if taken[i] = pools.takePipe(); taken[i] == nil {
					t.Fatalf("no pipe %d", i)
				}
			}
			for _, p := range taken {
				pools.givePipe(p)
			}
		}
		before := pipeEnds(t)
		cycle(many)
		if n := pools.pipesOpen(); n != many {
			t.Fatalf("%d pipes are open, want %d", n, many)
		}
		for range 12 { // in two minutes of use, only those that no one needs go
			time.Sleep(10 * time.Second) //nolint:forbidigo // of a fake clock
			synctest.Wait()
			cycle(busy)
		}
		if n := pools.pipesOpen(); n != busy {
			t.Errorf("%d pipes are open while %d are used, want as many", n, busy)
		}
		time.Sleep(time.Minute) //nolint:forbidigo // of a fake clock
		synctest.Wait()
		if n, fds := pools.pipesOpen(), pipeEnds(t)-before; n != idlePipes || fds != 2*idlePipes {
			t.Errorf("%d pipes and %d descriptors after a minute of rest, want %d pipes", n, fds, idlePipes)
		}
		cycle(many) // what is kept works, and Close stops the timer
		pools.Close()
		if n, fds := pools.pipesOpen(), pipeEnds(t)-before; n != 0 || fds != 0 {
			t.Errorf("%d pipes and %d descriptors are left", n, fds)
		}
	})
}

// TestNoPipe: without descriptors for a pipe the relay copies.
func TestNoPipe(t *testing.T) {
	for _, engine := range []Engine{EngineAuto, EngineSplice} {
		var asked atomic.Int64
		pools := servedPools(PoolOptions{})
		pools.pipes.pipe2 = func([]int, int) error {
			asked.Add(1)
			return unix.EMFILE
		}
		exchange(t, tcpPair, Options{Engine: engine, Pools: pools}, 1, []int{4 << 20}, []int{1 << 20})
		if asked.Load() == 0 {
			t.Errorf("%v: no pipe was asked for", engine)
		}
		if n := asked.Load(); n > 20 {
			t.Errorf("%v: asked %d times for 5 MiB", engine, n)
		}
	}
}

// pipeEnds is how many descriptors of pipes there are. Of others some may be about to
// be closed, by the reactor of a test before.
func pipeEnds(t *testing.T) (n int) {
	t.Helper()
	all, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range all {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "pipe:") {
			n++
		}
	}
	return n
}

// TestCountersDuringSplice reads the counters of a relay that is splicing and
// has not ended, and sees what it holds before, during and after.
func TestCountersDuringSplice(t *testing.T) {
	pools := servedPools(PoolOptions{})
	tun := open(t, tcpPair, Options{Pools: pools})
	before := pipeEnds(t)
	for i := range 3 {
		block := bytes.Repeat([]byte("x"), 4<<20)
		go func() { _, _ = tun.server.Write(block) }()
		if _, err := io.CopyN(io.Discard, tun.client, int64(len(block))); err != nil {
			t.Fatal(err)
		}
		// The client has the bytes a moment before they are counted.
		want := int64(i+1) * 4 << 20
		eventually(t, "the count", func() bool { return tun.counters.Out.Load() == want })
	}
	if pools.pipesOpen() == 0 {
		t.Error("nothing was spliced")
	}
	eventually(t, "the pipes back in the pool", func() bool {
		pools.mu.Lock()
		defer pools.mu.Unlock()
		return len(pools.pipes.free) == pools.pipes.open
	})
	if after := pipeEnds(t); after != before+2*pools.pipesOpen() {
		t.Errorf("%d descriptors idle before, %d after, with %d pipes in the pool", before, after, pools.pipesOpen())
	}
	tun.cancel(nil)
	tun.wantEnd(t, cause.Drained)
}

// eventually waits for a state that no event announces.
func eventually(t *testing.T, what string, reached func() bool) {
	t.Helper()
	end := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !reached() {
		select {
		case <-end:
			t.Fatalf("%s: never reached", what)
		case <-tick.C:
		}
	}
}
