package relay

import (
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"cleversocks/conn/cause"
)

// TestResetBehindEndIsPassedOn: a side that sent its end of stream and then a
// reset held the tunnel until the idle timeout. Nobody read from it any more,
// and what told of the reset was taken for room to write. Fifty such clients
// held fifty connections and a hundred descriptors for a quarter of an hour.
func TestResetBehindEndIsPassedOn(t *testing.T) {
	// Each ends a side for good, after it has sent "x".
	ways := []struct {
		name string
		end  func(t *testing.T, from, to net.Conn)
	}{
		{"after the end", func(t *testing.T, from, to net.Conn) {
			t.Helper()
			closeWrite(t, from)
			wantEOF(t, to)
			reset(t, from)
		}},
		{"with the end", func(t *testing.T, from, _ net.Conn) {
			t.Helper()
			closeWrite(t, from)
			reset(t, from)
		}},
		{"as the answer to bytes for a closed socket", func(t *testing.T, from, to net.Conn) {
			t.Helper()
			shut(from)
			wantEOF(t, to)
			send(t, to, []byte("nobody reads this"))
		}},
	}
	for _, k := range tcpKinds { // unix sockets have no reset
		for _, w := range ways {
			t.Run(k.name+" "+w.name, func(t *testing.T) {
				for _, byClient := range []bool{true, false} {
					tun := open(t, k.pair, Options{Engine: k.engine, Pools: servedPools(PoolOptions{Reactors: k.reactors})})
					from, to, why := tun.client, tun.server, cause.ClientReset
					if !byClient {
						from, to, why = tun.server, tun.client, cause.ServerReset
					}
					send(t, from, []byte("x"))
					wantRead(t, to, "x")
					w.end(t, from, to)
					wantReset(t, to)
					if r := tun.wantEnd(t, why); !errors.Is(r.Err, syscall.ECONNRESET) && !errors.Is(r.Err, syscall.EPIPE) {
						t.Errorf("error %v beside the reset", r.Err)
					}
				}
			})
		}
	}
}

// wantReset waits without a byte either way: behind an end of stream a read
// would see only that.
func wantReset(t *testing.T, c net.Conn) {
	t.Helper()
	if peer := (&end{dress: &dress{tcp: c.(*net.TCPConn)}}); !peer.awaitReset() {
		t.Error("the other side saw no reset")
	}
}

// TestResetBehindEndDuringBulk is the same while the other direction has a
// goroutine of its own, which waits for more to come.
func TestResetBehindEndDuringBulk(t *testing.T) {
	for _, o := range []PoolOptions{{Reactors: 1}, {Reactors: bareReactors}, {Reactors: -1}} {
		tun := open(t, tcpPair, Options{Engine: EngineSplice, Pools: servedPools(o), Idle: time.Hour})
		closeWrite(t, tun.client)
		wantEOF(t, tun.server)
		const size = 32 << 20
		go func() { _, _ = tun.server.Write(bytes.Repeat([]byte("x"), size)) }()
		if _, err := io.CopyN(io.Discard, tun.client, size); err != nil {
			t.Fatal(err)
		}
		reset(t, tun.client)
		wantReset(t, tun.server)
		tun.wantEnd(t, cause.ClientReset)
	}
}

// TestResetEndsPause: a direction that the meter held up on a goroutine kept
// the relay, after a reset, until the pause was over.
func TestResetEndsPause(t *testing.T) {
	for _, k := range tcpKinds {
		t.Run(k.name, func(t *testing.T) {
			paused := make(chan struct{})
			tun := open(t, k.pair, Options{
				Engine: k.engine, Pools: servedPools(PoolOptions{Reactors: k.reactors}),
				Meter: holdsUp(paused),
			})
			send(t, tun.server, []byte("x"))
			<-paused
			reset(t, tun.client)
			tun.wantEnd(t, cause.ClientReset)
		})
	}
}
