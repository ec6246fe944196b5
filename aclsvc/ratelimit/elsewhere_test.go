package ratelimit

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"cleversocks/authsvc"
)

// What another process of this host has counts towards a source's limit, until
// it has it no more, and limits nobody else.
func TestGateElsewhere(t *testing.T) {
	g := NewGate()
	g.Set(GateOptions{PerSource: 3})
	here, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	g.Elsewhere(here, 2)
	for i, want := range []Verdict{Admitted, TooMany} {
		if got := g.Enter(here); got != want {
			t.Errorf("connection %d: %v", i+1, got)
		}
	}
	if got := g.Enter(other); got != Admitted {
		t.Errorf("another source: %v", got)
	}
	if n := len(g.Holdings()); n != 2 {
		t.Errorf("%d sources of our own", n)
	}
	g.Elsewhere(here, -2)
	if got := g.Enter(here); got != Admitted {
		t.Errorf("after the other process has ended: %v", got)
	}
}

// A user's limits hold over processes, addresses too: one that is known
// elsewhere is no further one. A user of whom another process has told before
// the first log-in here still gets the account's limits.
func TestUsersElsewhere(t *testing.T) {
	table := NewUsers()
	account := &authsvc.Account{Name: "alice", MaxConnections: 4, MaxAddresses: 2}
	first, second, third := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	table.Elsewhere("alice", first, 1)
	enter := func(from netip.Addr, want Verdict) *User {
		t.Helper()
		u, got := table.Enter(t.Context(), account, from, nil)
		if got != want {
			t.Errorf("from %s: %v, want %v", from, got, want)
		}
		return u
	}
	u := enter(second, Admitted)
	enter(third, TooWide)
	enter(first, Admitted)
	enter(first, Admitted)
	enter(first, TooMany)
	if n := u.Open(); n != 4 {
		t.Errorf("%d open", n)
	}
	table.Elsewhere("alice", first, -1)
	enter(first, Admitted)
	u.Leave(second)
	enter(third, Admitted)
}

// What another process has takes seats here, but for the bound of this process
// alone, and what is taken here is all that this one tells.
func TestSeatsElsewhere(t *testing.T) {
	var s Seats
	alice, stranger := SeatOf("alice", netip.Addr{}), SeatOf("", netip.MustParseAddr("2001:db8::1"))
	s.Elsewhere("alice", netip.Addr{}, 2)
	s.Elsewhere("", netip.MustParseAddr("2001:db8::"), 1)
	for i, step := range []struct {
		seat   Seat
		bounds Bounds
		want   Verdict
	}{
		{alice, Bounds{PerSeat: 2}, TooMany},
		{stranger, Bounds{PerSeat: 1}, TooMany},
		{alice, Bounds{Total: 3}, Full},
		{alice, Bounds{PerSeat: 3, Total: 4, Here: 1}, Admitted},
		{stranger, Bounds{Here: 1}, Full},
		{stranger, Bounds{PerSeat: 2, Total: 4}, Full},
		{stranger, Bounds{PerSeat: 2, Total: 5}, Admitted},
	} {
		if got := s.Take(step.seat, step.bounds); got != step.want {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
	}
	if told := s.Holdings(); len(told) != 2 || told[0].Open != 1 || told[1].Open != 1 {
		t.Errorf("%v", told)
	}
	s.Elsewhere("alice", netip.Addr{}, -2)
	s.Elsewhere("", netip.MustParseAddr("2001:db8::"), -1)
	if len(s.elsewhere) != 0 || s.away != 0 {
		t.Errorf("%v are left, %d in all", s.elsewhere, s.away)
	}
}

// A source that has used up its burst has none at a process that takes over, by
// its settings: where the burst is larger now the rest of it is left, and without
// a rate nothing is owed.
func TestDebts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eager, calm := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
		before := NewGate()
		before.Set(GateOptions{PerSecond: 1, Burst: 5})
		for range 5 {
			before.Enter(eager)
		}
		before.Enter(calm)
		after := func(o GateOptions) (admitted int) {
			g := NewGate()
			g.Set(o)
			g.Owe(before.Debts())
			g.Owe(before.Debts()) // it may come twice
			if v := g.Enter(calm); v != Admitted {
				t.Errorf("%v: %v", o, v)
			}
			for g.Enter(eager) == Admitted && admitted < 10 {
				admitted++
			}
			return admitted
		}
		for _, c := range []struct {
			options GateOptions
			want    int
		}{
			{GateOptions{PerSecond: 1, Burst: 5}, 0}, {GateOptions{PerSecond: 10, Burst: 12}, 7}, {GateOptions{PerSecond: 10, Burst: 5}, 0}, {GateOptions{}, 10},
		} {
			if got := after(c.options); got != c.want {
				t.Errorf("%v: %d admitted at once", c.options, got)
			}
		}
		time.Sleep(2 * time.Second) //nolint:forbidigo // synctest's clock
		if got := after(GateOptions{PerSecond: 1, Burst: 5}); got != 2 {
			t.Errorf("two seconds later: %d", got)
		}
	})
}
