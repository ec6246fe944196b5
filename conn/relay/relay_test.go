//go:build linux

package relay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"cleversocks/conn/cause"
)

// patience ends a test that hangs. No test expects it to pass.
const patience = 20 * time.Second

// kinds are the ways in which two peers can be joined: each must behave alike.
var kinds = []struct {
	name     string
	engine   Engine
	reactors int
	pair     func(*testing.T) (peer, relayed net.Conn)
}{
	{"tcp auto", EngineAuto, 1, tcpPair},
	{"tcp splice", EngineSplice, 1, tcpPair},
	{"tcp copy", EngineCopy, 1, tcpPair},
	{"tcp without readiness", EngineAuto, 1, opaquePair},
	{"tcp auto, bare", EngineAuto, bareReactors, tcpPair},
	{"tcp auto on goroutines", EngineAuto, -1, tcpPair},
	{"tcp copy on goroutines", EngineCopy, -1, tcpPair},
	{"unix auto", EngineAuto, 1, unixPair},
	{"unix auto, bare", EngineAuto, bareReactors, unixPair},
	{"unix splice on goroutines", EngineSplice, -1, unixPair},
}

// tcpKinds are those that can be reset.
var tcpKinds = kinds[:7]

// bareReactors is a number of reactors whose tunnels are bare from the start.
const bareReactors = 2

// opaque hides that a conn is a socket, as TLS does.
type opaque struct{ net.Conn }

func (o opaque) CloseWrite() error { return o.Conn.(*net.TCPConn).CloseWrite() }
func (o opaque) NetConn() net.Conn { return o.Conn }

func opaquePair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	peer, relayed := tcpPair(t)
	return peer, opaque{relayed}
}

func tcpPair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	return pairOver(t, "tcp4", "127.0.0.1:0")
}

func unixPair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	return pairOver(t, "unix", filepath.Join(t.TempDir(), "s"))
}

func pairOver(t *testing.T, network, address string) (peer, relayed net.Conn) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer shut(l)
	peer, err = net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(peer) })
	relayed, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	if err := peer.SetDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	// What a handshake left behind: the relay must clear it.
	if err := relayed.SetDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	return peer, relayed
}

// startUntil is Start for a relay that ends with a context.
func startUntil(ctx context.Context, client, server net.Conn, o Options, done func(Result)) {
	t := Start(client, server, o, done)
	context.AfterFunc(ctx, func() { t.End(context.Cause(ctx)) })
}

// run is Start for who waits.
func run(ctx context.Context, client, server net.Conn, o Options) Result {
	ended := make(chan Result, 1)
	startUntil(ctx, client, server, o, func(r Result) { ended <- r })
	return <-ended
}

// testTunnel is a relay under test, with the two peers that it joins.
type testTunnel struct {
	client, server net.Conn
	counters       *Counters
	result         <-chan Result
	cancel         context.CancelCauseFunc
}

// open starts a relay and checks at the end of the test that it left nothing.
func open(t *testing.T, pair func(*testing.T) (net.Conn, net.Conn), o Options) *testTunnel {
	t.Helper()
	if o.Pools == nil {
		o.Pools = servedPools(PoolOptions{})
	}
	peer, other := pair(t) // Go's own poller opens its descriptors with the first
	shut(peer)
	shut(other)
	// Each reactor has a descriptor until the pools are closed.
	before := descriptors(t) - o.Pools.reactorsRunning()
	ignore := goleak.IgnoreCurrent()
	client, a := pair(t)
	server, b := pair(t)
	if o.Counters == nil {
		o.Counters = new(Counters)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	result := make(chan Result, 1)
	tun := &testTunnel{client: client, server: server, counters: o.Counters, result: result, cancel: cancel}
	startUntil(ctx, a, b, o, func(r Result) { result <- r }) // returns
	t.Cleanup(func() {
		cancel(nil)
		_ = client.Close()
		_ = server.Close()
		o.Pools.Close()
		goleak.VerifyNone(t, ignore)
		if o.Pools.buffersFree() != 0 || o.Pools.pipesOpen() != 0 {
			t.Errorf("pools hold %d buffers and %d pipes after the end", o.Pools.buffersFree(), o.Pools.pipesOpen())
		}
		eventually(t, "the descriptors of before", func() bool { return descriptors(t) <= before })
	})
	return tun
}

func (p *Pools) buffersFree() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.buffers)
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func (tun *testTunnel) wait(t *testing.T) Result {
	t.Helper()
	select {
	case r := <-tun.result:
		return r
	case <-time.After(patience):
		t.Fatal("the relay did not end")
		return Result{}
	}
}

func (tun *testTunnel) wantEnd(t *testing.T, cause string) Result {
	t.Helper()
	r := tun.wait(t)
	if r.Cause != cause {
		t.Errorf("cause %q, want %q (err %v)", r.Cause, cause, r.Err)
	}
	return r
}

func closeWrite(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
}

func reset(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func send(t *testing.T, c net.Conn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

func wantRead(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

func wantEOF(t *testing.T, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Fatalf("read %d bytes, %v; want the end of the stream", n, err)
	}
}

// TestHalfClose ends each side first, and sends the other way after that.
func TestHalfClose(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name+" client first", func(t *testing.T) {
			tun := open(t, k.pair, Options{Engine: k.engine, Pools: servedPools(PoolOptions{Reactors: k.reactors})})
			send(t, tun.client, []byte("question"))
			closeWrite(t, tun.client)
			wantRead(t, tun.server, "question")
			wantEOF(t, tun.server)
			send(t, tun.server, []byte("a late answer"))
			wantRead(t, tun.client, "a late answer")
			_ = tun.server.Close()
			wantEOF(t, tun.client)
			r := tun.wantEnd(t, cause.ClientClosed)
			if r.In != 8 || r.Out != 13 || r.Err != nil {
				t.Errorf("got %+v", r)
			}
		})
		t.Run(k.name+" server first", func(t *testing.T) {
			tun := open(t, k.pair, Options{Engine: k.engine, Pools: servedPools(PoolOptions{Reactors: k.reactors})})
			closeWrite(t, tun.server)
			wantEOF(t, tun.client)
			send(t, tun.client, []byte("upload"))
			wantRead(t, tun.server, "upload")
			_ = tun.client.Close()
			wantEOF(t, tun.server)
			tun.wantEnd(t, cause.ServerClosed)
		})
	}
}

// TestIntegrity sends random bytes in random pieces both ways at once.
func TestIntegrity(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				seed := rapid.Uint64().Draw(rt, "seed")
				sizes := rapid.SliceOfN(rapid.OneOf(rapid.IntRange(1, 100), rapid.IntRange(1, 1<<17)), 1, 12)
				up, down := sizes.Draw(rt, "up"), sizes.Draw(rt, "down")
				size := rapid.SampledFrom([]int{1, 100, 4096, 0}).Draw(rt, "buffer")
				if size == 1 {
					up, down = []int{1, 2, 3}, []int{5}
				}
				exchange(t, k.pair, Options{Engine: k.engine, BufferSize: size, Pools: servedPools(PoolOptions{Reactors: k.reactors})}, seed, up, down)
			})
		})
	}
}

func exchange(t *testing.T, pair func(*testing.T) (net.Conn, net.Conn), o Options, seed uint64, up, down []int) {
	t.Helper()
	client, a := pair(t)
	server, b := pair(t)
	defer o.Pools.Close()
	var wg sync.WaitGroup
	var result Result
	wg.Go(func() { result = run(t.Context(), a, b, o) })
	var sums [4][32]byte
	wg.Go(func() { sums[0] = sendPieces(t, client, seed, up) })
	wg.Go(func() { sums[1] = hashAll(t, server) })
	wg.Go(func() { sums[2] = sendPieces(t, server, ^seed, down) })
	wg.Go(func() { sums[3] = hashAll(t, client) })
	wg.Wait()
	_ = client.Close()
	_ = server.Close()
	if sums[0] != sums[1] || sums[2] != sums[3] {
		t.Fatal("what arrived is not what was sent")
	}
	if result.In != int64(sum(up)) || result.Out != int64(sum(down)) || result.Err != nil {
		t.Fatalf("got %+v, want %d and %d bytes", result, sum(up), sum(down))
	}
}

func sum(sizes []int) int {
	n := 0
	for _, size := range sizes {
		n += size
	}
	return n
}

func sendPieces(t *testing.T, c net.Conn, seed uint64, sizes []int) [32]byte {
	t.Helper()
	r := rand.NewChaCha8(sha256.Sum256([]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}))
	h := sha256.New()
	for _, size := range sizes {
		piece := make([]byte, size)
		_, _ = r.Read(piece)
		h.Write(piece)
		if _, err := c.Write(piece); err != nil {
			t.Error(err)
		}
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	return [32]byte(h.Sum(nil))
}

func hashAll(t *testing.T, c net.Conn) [32]byte {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, c); err != nil {
		t.Error(err)
	}
	return [32]byte(h.Sum(nil))
}

// TestResetIsPassedOn resets one side of an idle relay, and of one whose
// other side has already closed its half.
func TestResetIsPassedOn(t *testing.T) {
	for _, k := range tcpKinds { // unix sockets have no reset
		for _, half := range []bool{false, true} {
			t.Run(k.name+map[bool]string{false: " open", true: " half-closed"}[half], func(t *testing.T) {
				for _, byClient := range []bool{true, false} {
					tun := open(t, k.pair, Options{Engine: k.engine, Pools: servedPools(PoolOptions{Reactors: k.reactors})})
					from, to, why := tun.client, tun.server, cause.ClientReset
					if !byClient {
						from, to, why = tun.server, tun.client, cause.ServerReset
					}
					send(t, from, []byte("x"))
					wantRead(t, to, "x")
					if half {
						closeWrite(t, to)
						wantEOF(t, from)
					}
					reset(t, from)
					if _, err := to.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("the other side saw %v, want a reset", err)
					}
					r := tun.wantEnd(t, why)
					if r.Err == nil {
						t.Error("no error beside the reset")
					}
				}
			})
		}
	}
}

// TestResetComesAfterTheData: what was on its way before a reset is delivered,
// and then the peer sees a reset and not a clean end. A linger of 0 at once
// used to deliver 128 KB of 3.9 MB.
func TestResetComesAfterTheData(t *testing.T) {
	for _, k := range tcpKinds {
		t.Run(k.name, func(t *testing.T) {
			const size = 3 << 20
			tun := open(t, k.pair, Options{Engine: k.engine, Pools: servedPools(PoolOptions{Reactors: k.reactors})})
			data := bytes.Repeat([]byte("0123456789abcdef"), size/16)
			sent := make(chan error, 1)
			go func() {
				_, err := tun.server.Write(data)
				sent <- err
			}()
			// Read so little that the relay's queues fill, then let the
			// server finish its write and reset.
			head := make([]byte, size/2)
			if _, err := io.ReadFull(tun.client, head); err != nil {
				t.Fatal(err)
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
			for tun.counters.Out.Load() < size { // taken by our socket, not by the client
				if _, err := io.ReadFull(tun.client, head[:1]); err != nil {
					t.Fatal(err)
				}
			}
			got := int64(0)
			reset(t, tun.server)
			n, err := io.Copy(io.Discard, tun.client)
			got += n
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("after the data came %v, want a reset", err)
			}
			if got == 0 {
				t.Error("nothing was queued: the test tests nothing")
			}
			r := tun.wantEnd(t, cause.ServerReset)
			if r.Out != size {
				t.Errorf("%d bytes counted, want %d", r.Out, size)
			}
		})
	}
}

// shut closes what only the test holds.
func shut(c io.Closer) { _ = c.Close() }
