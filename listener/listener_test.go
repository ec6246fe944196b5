package listener

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/thejerf/suture/v4"
	"golang.org/x/sys/unix"

	"cleversocks/conn/adopt"
	"cleversocks/conn/reset"
	"cleversocks/metrics"
)

const patience = 20 * time.Second

// door is a Handler that keeps what it admits.
type door struct {
	refuse string
	mu     sync.Mutex
	conns  []net.Conn
	turned []string // reasons
	came   chan struct{}
}

func newDoor(refuse string) *door { return &door{refuse: refuse, came: make(chan struct{}, 100)} }

func (d *door) TurnedAway(_ net.Conn, _, reason string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.turned = append(d.turned, reason)
}

func (d *door) Admit(c net.Conn, _ string) string {
	if d.refuse != "" {
		return d.refuse
	}
	d.mu.Lock()
	d.conns = append(d.conns, c)
	d.mu.Unlock()
	d.came <- struct{}{}
	return ""
}

func (d *door) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		c.Close()
	}
}

func options(address string) Options {
	return Options{
		Address: address, Metrics: metrics.New(), Log: slog.New(slog.DiscardHandler),
		Sockets: adopt.Options{NoDelay: true, KeepAlive: net.KeepAliveConfig{Enable: true, Idle: 61 * time.Second, Interval: 7 * time.Second, Count: 3}},
	}
}

// serve runs a listener's services until the test ends.
func serve(t *testing.T, l *Listener, h Handler) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, s := range l.Services(h) {
		running.Go(func() { _ = s.Serve(ctx) })
	}
	t.Cleanup(func() { cancel(); running.Wait(); l.Close() })
}

func dial(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

func TestOpenFamilies(t *testing.T) {
	for _, tt := range []struct {
		address   string
		four, six bool
	}{
		{"127.0.0.1:0", true, false},
		{"0.0.0.0:0", true, false},
		{"[::1]:0", false, true},
		{"[::]:0", true, true},
	} {
		l, err := Open(t.Context(), options(tt.address))
		if err != nil {
			t.Fatal(err)
		}
		d := newDoor("")
		serve(t, l, d)
		_, port, _ := net.SplitHostPort(l.Name())
		if port == "0" || strings.HasSuffix(l.Name(), ":0") {
			t.Errorf("%s is called %s", tt.address, l.Name())
		}
		for address, want := range map[string]bool{"127.0.0.1:" + port: tt.four, "[::1]:" + port: tt.six} {
			c, err := net.DialTimeout("tcp", address, patience)
			if (err == nil) != want {
				t.Errorf("%s: %s: %v", tt.address, address, err)
			}
			if err == nil {
				<-d.came
				c.Close()
			}
		}
		d.close()
	}
}

func TestOpenErrorsSayWhatToDo(t *testing.T) {
	taken, err := Open(t.Context(), options("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for address, want := range map[string]string{
		taken.Name():     "another program listens there",
		"203.0.113.9:80": "no interface of this machine has that address",
	} {
		if _, err := Open(t.Context(), options(address)); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), address) {
			t.Errorf("%s: %v", address, err)
		}
	}
	bad := options("127.0.0.1:0")
	bad.Congestion = "nonsense"
	if _, err := Open(t.Context(), bad); err == nil || !strings.Contains(err.Error(), `"nonsense"`) {
		t.Errorf("%v", err)
	}
}

func TestShardsShareAPort(t *testing.T) {
	o := options("127.0.0.1:0")
	o.Shards = 3
	l, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	d := newDoor("")
	defer d.close()
	serve(t, l, d)
	if n := len(l.Services(d)); n != 3 {
		t.Fatalf("%d services", n)
	}
	for range 20 {
		dial(t, l.Name())
		<-d.came
	}
}

// Accepted sockets have the options of their listener, and new ones after
// SetOptions, without a system call of their own.
func TestSocketOptionsAreInherited(t *testing.T) {
	l, err := Open(t.Context(), options("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	checkOptions(t, l)
}

// TestOptionsOfInheritedSockets: package net turned its own keepalive, every 15
// seconds, and TCP_NODELAY on for what came to a socket that it was given: one of
// systemd's, or of the predecessor in an upgrade.
func TestOptionsOfInheritedSockets(t *testing.T) {
	other, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	file, err := other.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	o := options(other.Addr().String())
	o.Inherited = []*os.File{file}
	l, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	checkOptions(t, l)
}

// checkOptions serves a listener that has options(), and changes them.
func checkOptions(t *testing.T, l *Listener) {
	t.Helper()
	d := newDoor("")
	defer d.close()
	serve(t, l, d)
	check := func(step string, want map[[2]int]int) {
		t.Helper()
		dial(t, l.Addr().String())
		<-d.came
		raw, err := d.conns[len(d.conns)-1].(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) {
			for option, want := range want {
				if got, err := unix.GetsockoptInt(int(fd), option[0], option[1]); err != nil || got != want {
					t.Errorf("%s: option %d is %d, %v; want %d", step, option, got, err, want)
				}
			}
		})
	}
	wanted := func(idle, interval, count, nodelay int) map[[2]int]int {
		return map[[2]int]int{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE}: 1, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE}: idle,
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL}: interval, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT}: count,
			{unix.IPPROTO_TCP, unix.TCP_NODELAY}: nodelay,
		}
	}
	check("at the start", wanted(61, 7, 3, 1))
	o := options("127.0.0.1:0")
	o.Sockets = adopt.Options{KeepAlive: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 1500 * time.Millisecond, Count: 9}}
	if err := l.SetOptions(o); err != nil {
		t.Fatal(err)
	}
	check("changed", wanted(30, 2, 9, 0))
	o.Sockets = adopt.Options{NoDelay: true}
	if err := l.SetOptions(o); err != nil {
		t.Fatal(err)
	}
	// What is off was on before: a reload left the probes on.
	check("off", map[[2]int]int{{unix.SOL_SOCKET, unix.SO_KEEPALIVE}: 0, {unix.IPPROTO_TCP, unix.TCP_NODELAY}: 1})
}

func TestRefusedConnectionsAreResetAndCounted(t *testing.T) {
	o := options("127.0.0.1:0")
	l, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, newDoor(metrics.RefusedLimit))
	c, err := net.DialTimeout("tcp", l.Name(), patience)
	if err == nil { // the reset may also be faster than connect returns
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
	if n := o.Metrics.Listener.Refused.Of(metrics.RefusedLimit).Get(); n != 1 {
		t.Errorf("counted %d", n)
	}
	if n := o.Metrics.Listener.Accepted(l.Name()).Get(); n != 1 {
		t.Errorf("accepted %d", n)
	}
}

// A service that ended can be run again on the same socket; one whose socket
// is closed asks not to be.
func TestServiceRestarts(t *testing.T) {
	l, err := Open(t.Context(), options("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	d := newDoor("")
	defer d.close()
	s := l.Services(d)[0]
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(ctx) }()
		dial(t, l.Name())
		<-d.came
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
	l.Close()
	if err := s.Serve(t.Context()); !errors.Is(err, suture.ErrDoNotRestart) {
		t.Errorf("%v, want ErrDoNotRestart", err)
	}
	if !l.Closed() {
		t.Error("not closed")
	}
	again, err := l.Reopen(t.Context())
	if err != nil || again.Name() != l.Name() {
		t.Fatalf("reopened as %v, %v", again, err)
	}
	again.Close()
}

// With the last descriptor gone, the spare one lets the client at the head
// of the queue be told.
func TestSpareDescriptor(t *testing.T) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := newSpare()
	defer s.close()
	client := dial(t, l.Addr().String())
	waiting := dial(t, l.Addr().String())
	fill := exhaustDescriptors(t)
	if _, err := l.AcceptTCP(); !isExhaustion(err) {
		t.Fatalf("%v, want EMFILE", err)
	}
	c := s.accept(l)
	if c == nil || s.reopen() {
		t.Fatalf("accepted %v; the spare is back while a connection has its place", c)
	}
	reset.Close(c)
	if !s.reopen() {
		t.Error("the spare is not back")
	}
	fill()
	_ = client.SetDeadline(time.Now().Add(patience))
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client sees %v, want a reset", err)
	}
	c = s.accept(l)
	if c == nil || !s.reopen() {
		t.Fatal("with descriptors again, the second client is not served")
	}
	defer c.Close()
	if _, err := c.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	_ = waiting.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(waiting, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

// TestExhaustionTurnsAllAway: the pause grew to a second while the spare
// descriptor did its work, so that most clients hung in the backlog.
func TestExhaustionTurnsAllAway(t *testing.T) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m, d := metrics.New(), newDoor("")
	e := exhaustion{spare: newSpare(), service: &Service{
		socket: l, log: slog.New(slog.DiscardHandler), accepted: m.Listener.Accepted("l"), refused: m.Listener.Refused, handler: d,
	}}
	defer e.spare.close()
	const clients = 20
	for range clients {
		dial(t, l.Addr().String())
	}
	exhaustDescriptors(t)
	for range clients {
		_, err := l.AcceptTCP()
		if !isExhaustion(err) {
			t.Fatalf("%v, want EMFILE", err)
		}
		if e.wait(t.Context(), err); e.backoff != firstBackoff {
			t.Fatalf("the next pause is %s, want %s", e.backoff, firstBackoff)
		}
	}
	if got := m.Listener.Refused.Of(metrics.RefusedDescriptors).Get(); got != clients {
		t.Errorf("%d of %d clients were reset", got, clients)
	}
	if len(d.turned) != clients || d.turned[0] != metrics.RefusedDescriptors {
		t.Errorf("the handler heard of %q", d.turned)
	}
}

// exhaustDescriptors leaves none free and returns what gives them back.
func exhaustDescriptors(t *testing.T) (free func()) {
	t.Helper()
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	// Lower the limit to what is open, then take what is left below it.
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 64, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	var files []*os.File
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		files = append(files, f)
	}
	var once sync.Once
	free = func() {
		once.Do(func() {
			for _, f := range files {
				f.Close()
			}
			_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old)
		})
	}
	t.Cleanup(free)
	return free
}

// A listener that a reload takes out had clients in its queue, connected as far
// as they knew: closing the socket reset them. They are taken first.
func TestQueuedConnectionsAreTaken(t *testing.T) {
	l, err := Open(t.Context(), options("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := newDoor("")
	defer d.close()
	const clients = 20
	for range clients {
		dial(t, l.Name())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // it is to end before it has accepted anything
	if err := l.Services(d)[0].Serve(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Serve: %v", err)
	}
	for i := range clients {
		select {
		case <-d.came:
		default:
			t.Fatalf("%d of %d clients were taken", i, clients)
		}
	}
}
