package conn

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cleversocks/conn/adopt"
	"cleversocks/metrics"
)

// accepted runs AcceptFrom, and returns what it counted and how it ended.
type accepted struct {
	mu     sync.Mutex
	counts map[string]int
	ended  chan error
}

func acceptFrom(t *testing.T, ctx context.Context, closed <-chan struct{}, g *Group, l *net.TCPListener) *accepted {
	t.Helper()
	a := &accepted{counts: make(map[string]int), ended: make(chan error, 1)}
	go func() {
		a.ended <- g.AcceptFrom(ctx, closed, descriptorOf(l), "test", func(refused string) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.counts[refused]++
		})
	}()
	late := time.After(patience)
	for g.nextLane.Load() == 0 && len(a.ended) == 0 {
		select {
		case <-late:
			t.Fatal("does not begin to accept")
		case <-time.After(time.Millisecond):
		}
	}
	return a
}

// descriptorOf makes one more descriptor of a listening socket.
func descriptorOf(l *net.TCPListener) func() (int, bool, error) {
	return func() (fd int, shared bool, err error) {
		fd, err = adopt.DuplicateOf(l)
		return fd, false, err
	}
}

func (a *accepted) count(refused string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.counts[refused]
}

func (a *accepted) wantEnd(t *testing.T, want error) {
	t.Helper()
	select {
	case err := <-a.ended:
		if !errors.Is(err, want) {
			t.Errorf("ended with %v, want %v", err, want)
		}
	case <-time.After(patience):
		t.Fatal("does not end")
	}
}

// reactingGroup is a group whose connections reactors serve.
func reactingGroup(t *testing.T) (*Group, *metrics.Registry) {
	t.Helper()
	defer func(before string) { driverTested = before }(driverTested)
	driverTested = "reactors"
	return newTestGroup(t, true)
}

// A reactor accepts, serves, and resets whom a limit refuses, until it is told to
// stop. Somebody else may accept from the socket then: nothing is left behind that
// would.
func TestAcceptFrom(t *testing.T) {
	g, _ := reactingGroup(t)
	to, l := sinkServer(t), listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	a := acceptFrom(t, ctx, nil, g, l)
	for range 20 {
		visit(t, l, to)
	}
	eventuallyIn(t, func() bool { return a.count("") == 20 }) // each is counted behind its being handed over
	awaitIdle(t, g)
	g.SetLimit(0)
	refused, err := net.Dial("tcp", l.Addr().String())
	if err == nil {
		defer refused.Close()
		_ = refused.SetDeadline(time.Now().Add(patience))
		_, err = refused.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("who is refused sees %v", err)
	}
	if a.count(metrics.RefusedLimit) != 1 {
		t.Errorf("counted %d refused", a.count(metrics.RefusedLimit))
	}
	cancel()
	a.wantEnd(t, context.Canceled)
	late, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	_ = l.SetDeadline(time.Now().Add(patience))
	c, err := l.Accept()
	if err != nil {
		t.Fatalf("nobody is left to accept: %v", err)
	}
	c.Close()
}

// A reload that gives a listener a door, or has it listen in, has tasks serve it
// from the next connection on.
func TestAcceptFromEndsForADoor(t *testing.T) {
	g, _ := reactingGroup(t)
	to, l := sinkServer(t), listen(t)
	a := acceptFrom(t, t.Context(), nil, g, l)
	policy := *g.Policy()
	policy.Listeners = map[string]Listener{"test": {Protocols: spoken, SNI: SNILog}}
	g.SetPolicy(&policy)
	visit(t, l, to)
	a.wantEnd(t, errors.ErrUnsupported)
	eventuallyIn(t, func() bool { return a.count("") == 1 })
	again := acceptFrom(t, t.Context(), nil, g, l)
	again.wantEnd(t, errors.ErrUnsupported)
}

// A listener that is closed waits for AcceptFrom to be done with its socket.
func TestAcceptFromEndsWithTheListener(t *testing.T) {
	g, _ := reactingGroup(t)
	closed := make(chan struct{})
	a := acceptFrom(t, t.Context(), closed, g, listen(t))
	close(closed)
	a.wantEnd(t, net.ErrClosed)
}

// A socket of systemd's may be another service's, too, at whose start it is made to
// block for all that have it. The client had been taken by that one, and the reactor
// waited for the next, with all of its tunnels.
func TestAcceptDoesNotWait(t *testing.T) {
	fd, _, err := descriptorOf(listen(t))()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	a := &acceptor{fd: fd, shared: true}
	if _, _, errno := a.accept(); errno != unix.EAGAIN {
		t.Errorf("%v", errno)
	}
}

// BenchmarkAcceptFrom is BenchmarkConnection with many connections at a time, which
// a reactor accepts.
func BenchmarkAcceptFrom(b *testing.B) {
	defer func(before string) { driverTested = before }(driverTested)
	driverTested = "reactors"
	g, _ := newTestGroup(b, true)
	to, l := sinkServer(b), listen(b)
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = g.AcceptFrom(ctx, nil, descriptorOf(l), "bench", func(string) {})
	}()
	request := sessions(to)["socks5"][0]
	b.SetParallelism(8)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			client, err := net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
			if err != nil {
				b.Error(err)
				return
			}
			_, err = io.WriteString(client, request)
			err = errors.Join(err, client.CloseWrite())
			_, more := io.ReadAll(client)
			if err = errors.Join(err, more, client.Close()); err != nil {
				b.Error(err)
			}
		}
	})
	cancel()
	<-ended
}

// visit is one connection to a listener that goes through to a server.
func visit(t *testing.T, l net.Listener, to netip.AddrPort) {
	t.Helper()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = client.SetDeadline(time.Now().Add(patience))
	got := speakOver(t, client.(*net.TCPConn), sessions(to)["socks5"][0]+"hello")
	if err := sameAnswer(sessions(to)["socks5"][1], []byte("hello"), got); err != nil {
		t.Fatal(err)
	}
}

// TestResetBeforeTheTask: package net knows no address of a peer that has reset its
// connection, so that one passed for a client without an address, whom no list and
// no limit by source concerns.
func TestResetBeforeTheTask(t *testing.T) {
	g, m := newTestGroup(t, true)
	client, server := pair(t, listen(t))
	fd, err := adopt.DuplicateOf(server)
	if err != nil {
		t.Fatal(err)
	}
	_ = client.SetLinger(0)
	client.Close()
	_, _ = server.Read(make([]byte, 1)) // until the reset is there
	server.Close()
	counts := make(map[string]int)
	a := &acceptor{g: g, listener: "test", count: func(refused string) { counts[refused]++ }}
	a.handToTask(fd, g.Policy())
	if len(counts) != 1 || counts[""] != 1 {
		t.Errorf("counted %v, want one that was accepted", counts)
	}
	if n := g.Active() + int(m.Conn.Active.Of("unknown").Load()); n != 0 {
		t.Errorf("%d connections", n)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
		t.Error("its descriptor is open")
	}
}
