package relay

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"
	"unsafe"

	"cleversocks/conn/adopt"
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

// TestBulkKeepsOptions: the conns of a bulk transfer are made of descriptors, and
// package net turned keepalive and TCP_NODELAY on there, whatever had been set.
func TestBulkKeepsOptions(t *testing.T) {
	for _, want := range []adopt.Options{
		{},
		{NoDelay: true, KeepAlive: net.KeepAliveConfig{Enable: true, Idle: 300 * time.Second, Interval: 7 * time.Second, Count: 3}},
	} {
		client, a := tcpPair(t)
		server, b := tcpPair(t)
		want.Set(a)
		want.Set(b)
		pools := servedPools(PoolOptions{Reactors: 1})
		over := make(chan Result, 1)
		tun := Start(a, b, Options{Pools: pools}, func(r Result) { over <- r })
		tun.locked(func() {
			tun.strip()
			if !tun.dress() {
				t.Error("no conns")
			}
			for _, e := range []*end{&tun.client, &tun.server} {
				var got adopt.Options
				if err := e.withFD(func(fd uintptr) { got = adopt.Of(int(fd)) }); err != nil || got != want {
					t.Errorf("%+v, %v; want %+v", got, err, want)
				}
			}
		})
		tun.End(ErrDrained)
		<-over
		shut(client)
		shut(server)
		pools.Close()
	}
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

// nobody is a guest whose tunnel has begun already.
type nobody struct{}

func (nobody) Turn(Side, uint32) {}

// TestLastsWithShortIdleTime: with an idle time of a second or less a tunnel was never
// one that lasts, and its server's socket never got its keepalive.
func TestLastsWithShortIdleTime(t *testing.T) {
	client, a := tcpPair(t)
	server, b := tcpPair(t)
	defer shut(client)
	defer shut(server)
	pools := servedPools(PoolOptions{Reactors: 1})
	defer pools.Close()
	seat := pools.Reactors()[0].Seat(nobody{})
	fds := make([]int, 2)
	for side, c := range []net.Conn{a, b} {
		var err error
		if fds[side], err = adopt.DuplicateOf(c.(*net.TCPConn)); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	if err := errors.Join(seat.Watch(fds[0], ClientSide, Arrivals), seat.Watch(fds[1], ServerSide, Dialing)); err != nil {
		t.Fatal(err)
	}
	lasts, over := make(chan int, 1), make(chan Result, 1)
	seat.Relay(fds[0], fds[1], false, false, Options{Pools: pools, Idle: bareAfter, Lasts: func(fd int) { lasts <- fd }}, func(r Result) { over <- r })
	select {
	case fd := <-lasts:
		if fd != fds[1] {
			t.Errorf("told of descriptor %d, want the server's, %d", fd, fds[1])
		}
	case r := <-over:
		t.Errorf("ended with %+v before it was one that lasts", r)
	}
}

// TestGuardTunnelSize: there is one Tunnel for each open tunnel, and the next
// larger class of the allocator costs 64 bytes more, header included.
func TestGuardTunnelSize(t *testing.T) {
	if size := unsafe.Sizeof(Tunnel{}); size > 640-8 {
		t.Errorf("%d bytes", size)
	}
}
