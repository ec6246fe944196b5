package relay

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"unsafe"

	"cleversocks/conn/cause"
)

func (t *Tunnel) isStripped() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.client.isBare() && t.server.isBare()
}

// TestTunnelThatLastsIsBare: bare descriptors carry small messages, a bulk
// transfer gets conns again and gives them back, and nothing is lost between.
func TestTunnelThatLastsIsBare(t *testing.T) {
	client, a := tcpPair(t)
	server, b := tcpPair(t)
	pools := servedPools(PoolOptions{Reactors: 1})
	defer pools.Close()
	over := make(chan Result, 1)
	tun := Start(a, b, Options{Pools: pools, Idle: patience}, func(r Result) { over <- r })
	send(t, client, []byte("young"))
	wantRead(t, server, "young")
	strip := func() { tun.locked(tun.strip) }
	for range 3 {
		eventually(t, "the strip", func() bool { strip(); return tun.isStripped() })
		if _, err := a.Read(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the conn is still open: %v", err)
		}
		send(t, client, []byte("old"))
		wantRead(t, server, "old")
		block := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		go func() {
			for range 32 {
				_, _ = server.Write(block)
			}
			_, _ = server.Write([]byte("end"))
		}()
		for range 32 {
			got := make([]byte, len(block))
			if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, block) {
				t.Fatal("other bytes than were sent", err)
			}
			strip() // at any time
		}
		wantRead(t, client, "end")
		for range 8 { // small messages end a bulk transfer
			send(t, server, []byte("x"))
			wantRead(t, client, "x")
		}
	}
	if err := tun.ControlServer(func(fd uintptr) {
		if fd == 0 {
			t.Error("no descriptor")
		}
	}); err != nil {
		t.Error(err)
	}
	closeWrite(t, client)
	wantEOF(t, server)
	shut(server)
	if r := <-over; r.Cause != cause.ClientClosed {
		t.Errorf("ended with %+v", r)
	}
	if err := tun.ControlServer(func(uintptr) { t.Error("of a closed tunnel") }); err == nil {
		t.Error("no error")
	}
	tun.End(ErrRevoked) // does nothing any more
}

// TestOldTunnelIsStrippedByItself waits for what the idle check does.
func TestOldTunnelIsStrippedByItself(t *testing.T) {
	for _, idle := range []bool{true, false} {
		client, a := tcpPair(t)
		server, b := tcpPair(t)
		pools := servedPools(PoolOptions{Reactors: 1})
		over := make(chan Result, 1)
		o := Options{Pools: pools}
		if idle {
			o.Idle = 4 * patience
		}
		tun := Start(a, b, o, func(r Result) { over <- r })
		eventually(t, "the strip", tun.isStripped)
		tun.End(ErrDrained)
		if r := <-over; r.Cause != cause.Drained {
			t.Errorf("ended with %+v", r)
		}
		shut(client)
		shut(server)
		pools.Close()
	}
}

// TestGuardTunnelSize: there is one Tunnel for each open tunnel, and the next
// larger class of the allocator costs 64 bytes more, header included.
func TestGuardTunnelSize(t *testing.T) {
	if size := unsafe.Sizeof(Tunnel{}); size > 640-8 {
		t.Errorf("%d bytes", size)
	}
}
