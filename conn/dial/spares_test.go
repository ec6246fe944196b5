package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cleversocks/conn/task"
	"cleversocks/conn/wire"
)

// silentName is a stage with a name of many addresses, none of which answers
// but the one given, and the most attempts that ran at a time.
func silentName(t *testing.T, opts Options, count int, answers string) (s *stage, most *atomic.Int32) {
	t.Helper()
	hosts := make(map[string]connectScript)
	var list []netip.Addr
	for i := range count {
		addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})
		list = append(list, addr)
		hosts[addr.String()] = connectScript{never: addr.String() != answers}
	}
	s = newStage(opts, &lookupScript{}, &lookupScript{addrs: list}, hosts)
	most = new(atomic.Int32)
	var running atomic.Int32
	connect := s.dialer.connect
	s.dialer.connect = func(ctx context.Context, to netip.AddrPort, egress Egress) (*net.TCPConn, error) {
		if n := running.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer running.Add(-1)
		return connect(ctx, to, egress)
	}
	return s, most
}

// TestRaceIsBounded: a name with 64 silent addresses held 40 sockets at the end
// of its dial, and forty such names all that there are. Six attempts run at a
// time; the oldest makes place, so that a late address is reached all the same.
func TestRaceIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, most := silentName(t, Options{ConnectTimeout: 10 * time.Second}, 64, "192.0.2.20")
		_, err := s.dialer.Dial(t.Context(), Request{Dest: wire.Addr{Name: "x.test", Port: 80}})
		if err != nil {
			t.Errorf("the 20th address answers: %v", err)
		}
		if n := most.Load(); n != maxAttempts {
			t.Errorf("%d attempts at a time, want %d", n, maxAttempts)
		}
	})
}

// TestSparesRunOut: without spare descriptors a race has one attempt at a time,
// and still gets to the next address.
func TestSparesRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var refused atomic.Int32
		spares := NewSpares(4, func() { refused.Add(1) })
		for i := range 4 {
			if !spares.take(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})) {
				t.Fatal("a client without any is refused one")
			}
		}
		s, most := silentName(t, Options{ConnectTimeout: 10 * time.Second, Spares: spares}, 3, "192.0.2.3")
		if _, err := s.dialer.Dial(t.Context(), Request{Dest: wire.Addr{Name: "x.test", Port: 80}}); err != nil {
			t.Error(err)
		}
		if n := most.Load(); n != 1 {
			t.Errorf("%d attempts at a time, want 1", n)
		}
		if refused.Load() == 0 {
			t.Error("nobody hears of it")
		}
	})
}

// TestSharesOfSpares: one client has at most a quarter, and gets nothing of it
// back twice; all addresses of an IPv6 /64 are one client.
func TestSharesOfSpares(t *testing.T) {
	s := NewSpares(8, nil)
	greedy := []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("2001:db8::3")}
	if !s.take(greedy[0]) || !s.take(greedy[1]) || s.take(greedy[2]) {
		t.Error("a client's share is not a quarter")
	}
	if !s.take(netip.MustParseAddr("2001:db8:0:1::1")) || !s.take(netip.Addr{}) {
		t.Error("others go short")
	}
	s.give(greedy[0])
	if !s.take(greedy[2]) || s.take(greedy[0]) {
		t.Error("what was given back is not there, or twice")
	}
}

// TestDialPanics: a panic in an attempt fails it alone; the next address is tried.
func TestDialPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var counted atomic.Int32
		s, _ := silentName(t, Options{Panics: &task.Reporter{Count: func(string) { counted.Add(1) }}}, 3, "192.0.2.2")
		connect := s.dialer.connect
		s.dialer.connect = func(ctx context.Context, to netip.AddrPort, egress Egress) (*net.TCPConn, error) {
			if to.Addr().String() == "192.0.2.1" {
				panic("a defect")
			}
			return connect(ctx, to, egress)
		}
		if _, err := s.dialer.Dial(t.Context(), Request{Dest: wire.Addr{Name: "x.test", Port: 80}}); err != nil {
			t.Error(err)
		}
		if counted.Load() != 1 {
			t.Errorf("%d panics counted, want 1", counted.Load())
		}
	})
}

// TestResolveForDatagrams: a datagram to a name waited five seconds where AAAA
// is not answered. The order is that of RFC 6724 alone, since nothing is raced.
func TestResolveForDatagrams(t *testing.T) {
	four, six := addrs("192.0.2.1", "192.0.2.2"), addrs("2001:db8::1", "2001:db8::2")
	lost := errors.New("lost")
	for name, tt := range map[string]struct {
		six, four lookupScript
		want      []netip.Addr
		took      time.Duration
	}{
		"both":                {lookupScript{addrs: six}, lookupScript{addrs: four}, append(six, four...), 0},
		"AAAA not answered":   {lookupScript{after: 5 * time.Second, err: lost}, lookupScript{after: 10 * ms, addrs: four}, four, 60 * ms},
		"AAAA a little late":  {lookupScript{after: 40 * ms, addrs: six}, lookupScript{addrs: four}, append(six, four...), 40 * ms},
		"A not answered":      {lookupScript{addrs: six}, lookupScript{after: 5 * time.Second, err: lost}, six, 50 * ms},
		"A fails, AAAA later": {lookupScript{after: time.Second, addrs: six}, lookupScript{err: lost}, six, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(Options{}, &tt.six, &tt.four, nil)
				got, err := s.dialer.Resolve(t.Context(), "x.test", Egress{})
				if err != nil || fmt.Sprint(got) != fmt.Sprint(tt.want) {
					t.Errorf("%v, %v, want %v", got, err, tt.want)
				}
				if took := time.Since(s.start); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
			})
		})
	}
}
