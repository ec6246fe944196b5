package ratelimit

import (
	"net/netip"
	"testing"
)

// Users count by name, others by source, IPv6 by /64.
func TestSeats(t *testing.T) {
	var s Seats
	addr := netip.MustParseAddr
	alice, stranger := SeatOf("alice", addr("192.0.2.1")), SeatOf("", addr("2001:db8::1"))
	if alice != SeatOf("alice", addr("192.0.2.2")) || stranger != SeatOf("", addr("2001:db8::2")) {
		t.Error("one user, or one subscriber, has two seats")
	}
	if stranger == SeatOf("", addr("2001:db8:0:1::1")) || SeatOf("", addr("192.0.2.1")) == alice {
		t.Error("two have one seat")
	}
	if SeatOf("", addr("::ffff:192.0.2.1")) != SeatOf("", addr("192.0.2.1")) {
		t.Error("a mapped address is another one")
	}
	for i, step := range []struct {
		seat Seat
		want Verdict
	}{{alice, Admitted}, {alice, Admitted}, {alice, TooMany}, {stranger, Admitted}, {SeatOf("bob", netip.Addr{}), Full}} {
		if got := s.Take(step.seat, Bounds{PerSeat: 2, Total: 3}); got != step.want {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
	}
	s.Return(alice)
	if got := s.Take(alice, Bounds{PerSeat: 2, Total: 3}); got != Admitted {
		t.Errorf("after a return: %v", got)
	}
	s.Return(alice)
	s.Return(alice)
	s.Return(stranger)
	if len(s.taken) != 0 || s.all != 0 {
		t.Errorf("%v are left, %d in all", s.taken, s.all)
	}
}
