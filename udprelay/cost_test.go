package udprelay

import (
	"context"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cleversocks/conn/cause"
	"cleversocks/conn/task"
	"cleversocks/conn/wire"
	"cleversocks/metrics"
)

// Neither an address nor a known name costs an allocation per datagram, nor does it
// to tell what each destination has moved.
func TestGuardDatagramsAllocateNothing(t *testing.T) {
	h := associate(t, New(RelayOptions{}), func(s *Request) {
		s.Generation = func() uint64 { return 1 }
		s.Meter = func(Direction, int) MeterVerdict { return MeterPass }
		s.Flow = func(*Flow) {}
		s.Resolve = func(context.Context, wire.Addr) ([]netip.Addr, error) { return []netip.Addr{loopback4}, nil }
	})
	at := echo(t, loopback4)
	byAddress := wrap(t, to(at), make([]byte, 512))
	byName := wrap(t, wire.Addr{Name: "a.rather.long.name.of.a.host.example", Port: at.Port()}, make([]byte, 512))
	buf := make([]byte, 2048)
	_ = h.udp.SetReadDeadline(time.Now().Add(20 * time.Second))
	exchange := func() {
		for _, b := range [][]byte{byAddress, byName} {
			if _, err := h.udp.WriteToUDPAddrPort(b, h.bound); err != nil {
				t.Fatal(err)
			}
			if _, _, err := h.udp.ReadFromUDPAddrPort(buf); err != nil {
				t.Fatal(err)
			}
		}
	}
	exchange()
	if allocs := testing.AllocsPerRun(500, exchange); allocs != 0 {
		t.Errorf("%v allocations for two round trips", allocs)
	}
	h.end(t)
}

// Associations leave nothing behind, and idle ones hold no batch.
func TestDescriptorsAndGoroutinesReturn(t *testing.T) {
	r := New(RelayOptions{})
	at4, at6 := echo(t, loopback4), echo(t, loopback6)
	warm := associate(t, r, nil)
	warm.roundTrip(t, to(at4), at4, "x")
	warm.end(t)
	fds, goroutines := descriptors(t), runtime.NumGoroutine()
	for range 3 {
		var all []*harness
		for range 10 {
			h := associate(t, r, nil)
			h.roundTrip(t, to(at4), at4, "x")
			h.roundTrip(t, to(at6), at6, "x")
			all = append(all, h)
		}
		for _, h := range all {
			h.end(t)
		}
	}
	// Goroutines end a moment after what they did last was seen.
	eventually(t, "descriptors are closed", func() bool { return descriptors(t) <= fds })
	eventually(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= goroutines })
	if held := len(r.pool.tokens); held != 0 {
		t.Errorf("%d batches are held by nobody", held)
	}
	if left := r.fragments.Load(); left != fragmentMemory {
		t.Errorf("%d bytes of the fragment budget left", left)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// counting is a reporter of panics that counts them as the daemon does.
func counting(m *metrics.Registry) *task.Reporter {
	return &task.Reporter{Count: func(where string) { m.Conn.Panics.Of(where).Inc() }}
}

func TestPoolIsBounded(t *testing.T) {
	p := newPool(2)
	a, b := p.get(t.Context()), p.get(t.Context())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := p.get(ctx); got != nil {
		t.Error("a third batch")
	}
	p.put(a)
	if got := p.get(t.Context()); got != a {
		t.Error("not the one that was used last")
	}
	p.put(a)
	p.put(b)
}

// A panic while datagrams were handled kept the batch: a few of them, and no
// association of anybody's moved a datagram any more.
func TestPanicsLeaveThePool(t *testing.T) {
	m := metrics.New()
	r := New(RelayOptions{Metrics: m, Panics: counting(m)})
	at := echo(t, loopback4)
	batches := cap(r.pool.tokens)
	for range batches {
		h := associate(t, r, func(s *Request) {
			s.Meter = func(Direction, int) MeterVerdict { panic("a defect") }
		})
		h.send(t, wrap(t, to(at), []byte("x")))
		if res := h.wait(t); res.Cause != cause.Error {
			t.Errorf("%+v", res)
		}
	}
	if n := m.Conn.Panics.Of("udp").Get(); n != uint64(batches) {
		t.Errorf("%d panics counted", n)
	}
	h := associate(t, r, nil)
	h.roundTrip(t, to(at), at, "served all the same")
	h.end(t)
}

// A path that does not take segmented sends gets the datagrams one by one.
func TestRefusedSegmentation(t *testing.T) {
	server := listenUDP(t, loopback4)
	sock, err := newSocket(listenUDP(t, loopback4))
	if err != nil {
		t.Fatal(err)
	}
	b := newBatch()
	dest := endpointOf(portOf(server))
	for _, text := range []string{"one", "two", "3"} {
		if !b.out.add(sock, &dest, []byte("head "), []byte(text)) {
			t.Fatal("no room")
		}
	}
	if b.out.n != 1 {
		t.Fatalf("%d messages, want one of three segments", b.out.n)
	}
	for i := range b.out.n {
		b.out.prepare(i)
	}
	// Without a flush, which this kernel would not refuse.
	err = sock.rc.Write(func(fd uintptr) bool {
		b.out.sendApart(fd, &b.out.msgs[0])
		return true
	})
	if err != nil || b.out.result != (flushResult{sent: 3, bytes: 7}) {
		t.Errorf("%+v, %v", b.out.result, err)
	}
	buf := make([]byte, 64)
	for _, want := range []string{"head one", "head two", "head 3"} {
		n, err := server.Read(buf)
		if err != nil || string(buf[:n]) != want {
			t.Errorf("%q, %v; want %q", buf[:n], err, want)
		}
	}
	for _, tt := range []struct {
		errno syscall.Errno
		want  int32
	}{{unix.EPERM, firstGSO}, {unix.EINVAL, 1399}, {unix.EIO, 0}} {
		sock.degrade(tt.errno, 1400)
		if got := sock.gsoMax.Load(); got != tt.want {
			t.Errorf("after %v segments of %d, want %d", tt.errno, got, tt.want)
		}
	}
}

func TestEndpoint(t *testing.T) {
	for _, s := range []string{"127.0.0.1:53", "[2001:db8::1]:65535", "0.0.0.0:0"} {
		ap := netip.MustParseAddrPort(s)
		e := endpointOf(ap)
		if got := e.addrPort(); got != ap {
			t.Errorf("%v became %v", ap, got)
		}
	}
}
