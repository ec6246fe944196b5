package ratelimit

import (
	"net/netip"
	"testing"

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
