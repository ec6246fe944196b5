package supervisor

import (
	"encoding/json"
	"net/netip"
	"testing"

	"cleversocks/aclsvc/ratelimit"
	"cleversocks/authsvc"
	"cleversocks/conn"
)

// What a process holds travels as changes, in batches, and what a new teller
// does not name is gone: the one of before may have told of it.
func TestReports(t *testing.T) {
	g := &guards{Guards: conn.Guards{Gate: ratelimit.NewGate(), Users: ratelimit.NewUsers()}, seats: map[string]*ratelimit.Seats{ofBinds: {}}}
	here, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	alice := &authsvc.Account{Name: "alice", MaxConnections: 3}
	far := newForeign(g)
	var told changes
	tell := func(whole bool, now ...ratelimit.Holding) (messages int) {
		t.Helper()
		err := report{Holdings: told.of(now), Whole: whole}.send(func(m any) error {
			messages++
			raw, err := json.Marshal(m)
			if err != nil {
				return err
			}
			var r report
			if err := json.Unmarshal(raw, &r); err != nil {
				return err
			}
			far.take(r)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return messages
	}
	room := func() (n int) {
		t.Helper()
		for {
			u, verdict := g.Users.Enter(t.Context(), alice, here, nil)
			if verdict != ratelimit.Admitted {
				break
			}
			n++
			defer u.Leave(here)
		}
		return n
	}
	holding := func(from netip.Addr, n int) ratelimit.Holding {
		return ratelimit.Holding{User: []byte("alice"), Source: from, Open: n}
	}
	for _, step := range []struct {
		whole bool
		now   []ratelimit.Holding
		want  int
	}{
		{true, []ratelimit.Holding{holding(here, 1), holding(other, 1), {Source: here, Open: 2}}, 1},
		{false, []ratelimit.Holding{holding(here, 1), holding(here, 1)}, 1}, // of two processes
		{false, []ratelimit.Holding{holding(here, 1)}, 2},
		{false, nil, 3},
	} {
		tell(step.whole, step.now...)
		if got := room(); got != step.want {
			t.Errorf("%v leave room for %d", step.now, got)
		}
	}
	tell(false, holding(here, 2))
	told = changes{} // another process tells
	tell(true, holding(other, 1))
	if got := room(); got != 2 {
		t.Errorf("room for %d with another who tells", got)
	}
	many := make([]ratelimit.Holding, 0, reportBatch+1)
	for i := range reportBatch + 1 {
		many = append(many, ratelimit.Holding{Source: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), Open: 1})
	}
	if n := tell(true, many...); n != 2 {
		t.Errorf("%d messages", n)
	}
	if n := len(far.list(false)); n != len(many) {
		t.Errorf("%d holdings arrived", n)
	}
	many[0], many[1] = ratelimit.Holding{Of: ofBinds, Source: here, Open: 2}, ratelimit.Holding{Of: "things of the future", Source: here, Open: 1}
	tell(false, many...)
	seat := ratelimit.SeatOf("", here)
	if v := g.seats[ofBinds].Take(seat, ratelimit.Bounds{PerSeat: 2}); v != ratelimit.TooMany {
		t.Errorf("%v where another process has two", v)
	}
	far.clear()
	if v := g.seats[ofBinds].Take(seat, ratelimit.Bounds{PerSeat: 1}); v != ratelimit.Admitted {
		t.Errorf("%v after the end", v)
	}
	if got := room(); got != 3 {
		t.Errorf("room for %d after the end", got)
	}
}

// What is wanted of bandwidths travels as changes too.
func TestDemands(t *testing.T) {
	alice := func(n int) ratelimit.Demand {
		return ratelimit.Demand{User: []byte("alice"), Down: ratelimit.Use{Greedy: n}}
	}
	var told demands
	for i, step := range []struct {
		now  demands
		want []int // greedy ones, of each change
	}{
		{demands{"alice": alice(1)}, []int{1}},
		{demands{"alice": alice(1)}, nil},
		{demands{"alice": alice(2)}, []int{2}},
		{demands{}, []int{0}},
		{demands{}, nil},
	} {
		news := step.now.since(&told)
		if len(news) != len(step.want) || len(news) == 1 && news[0].Down.Greedy != step.want[0] {
			t.Errorf("step %d: %v", i, news)
		}
	}
	sum := demands{"alice": alice(1)}
	sum.add(demands{"alice": alice(1), "bob": {User: []byte("bob")}})
	if sum["alice"].Down.Greedy != 2 || len(sum) != 2 {
		t.Errorf("%v", sum)
	}
}
