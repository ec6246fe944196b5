package shared

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"cleversocks/authsvc"
)

// Who has logged in at one replica needs no password at another, at once, and
// not after being revoked.
func TestOnceOfFleet(t *testing.T) {
	_, url := fake(t)
	all := joinAll(t, url, 2)
	id := vouched(t, all[0])
	all[0].once.Add(home, id)
	late := join(t, url, "late")
	eventually(t, "it is connected", func() bool { return late.client.Load() != nil })
	for _, r := range []*replica{all[1], late} {
		eventually(t, "it is known everywhere", func() bool {
			e, ok := r.once.LookupElsewhere(t.Context(), home)
			return ok && e.User == "alice"
		})
	}
	if _, ok := late.once.LookupElsewhere(t.Context(), netip.MustParseAddr("192.0.2.8")); ok {
		t.Error("somebody is let in whom nobody knows")
	}
	// Each connection of a client that gives a password is a log-in: the store
	// hears of the first.
	told := func() uint64 { return all[0].metrics.Shared.Events.Of("sent", "once").Get() }
	before := told()
	for range 100 {
		all[0].once.Add(home, id)
	}
	all[0].once.Add(netip.MustParseAddr("192.0.2.9"), id)
	eventually(t, "the next address is told", func() bool { return told() > before })
	eventually(t, "the other has heard of it", func() bool { _, ok := all[1].once.Lookup(home); return ok })
	for range 100 { // by turns, as behind a load balancer
		all[1].once.Add(home, id)
		all[0].once.Add(home, id)
	}
	if n := all[1].metrics.Shared.Events.Of("sent", "once").Get(); n != 0 {
		t.Errorf("%d events for log-ins that everybody knows of", n)
	}
	if n := told() - before; n != 1 {
		t.Errorf("%d events for a hundred log-ins and a new address", n)
	}
	all[1].once.Revoke(home)
	for _, r := range append(all, late) {
		eventually(t, "it is known nowhere", func() bool {
			_, ok := r.once.LookupElsewhere(t.Context(), home)
			return !ok
		})
	}
}

// A client that comes while its address is revoked asked the store, which had not
// forgotten it yet, and was let in from then on.
func TestRevokedWhileAsked(t *testing.T) {
	_, url := fake(t)
	all := joinAll(t, url, 2)
	id := vouched(t, all[0])
	for i := range 30 {
		addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})
		all[0].once.Add(addr, id)
		eventually(t, "it is known everywhere", func() bool { _, ok := all[1].once.LookupElsewhere(t.Context(), addr); return ok })
		stop := make(chan struct{})
		var asking sync.WaitGroup
		for _, r := range all {
			asking.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						r.once.LookupElsewhere(t.Context(), addr)
					}
				}
			})
		}
		all[0].once.Revoke(addr)
		for _, r := range all {
			eventually(t, "it is known nowhere", func() bool { _, ok := r.once.LookupElsewhere(t.Context(), addr); return !ok })
		}
		close(stop)
		asking.Wait()
		for _, r := range all { // the news of the log-in may come later than an answer, and before those of its end
			eventually(t, "it is let in no more", func() bool { _, ok := r.once.Lookup(addr); return !ok })
		}
	}
}

// Many users behind one address log in by turns: each turn was told to the whole fleet.
func TestManyBehindOneAddress(t *testing.T) {
	_, url := fake(t)
	all := joinAll(t, url, 2)
	users, err := authsvc.NewUsers(authsvc.UsersOptions{AllowPlain: true, Users: []authsvc.UserEntry{
		{Account: authsvc.Account{Name: "alice"}, Password: "secret"}, {Account: authsvc.Account{Name: "bob"}, Password: "secret"},
	}, Metrics: &all[0].metrics.Auth})
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for range 200 {
		for _, name := range []string{"alice", "bob"} {
			id, _ := users.Vouch(name)
			all[0].once.Add(home, id)
		}
	}
	eventually(t, "the last one is known everywhere", func() bool {
		e, ok := all[1].once.Lookup(home)
		return ok && e.User == "bob"
	})
	if n := all[0].metrics.Shared.Events.Of("sent", "once").Get(); float64(n) > 2+time.Since(begin).Seconds()/onceQuiet.Seconds() {
		t.Errorf("%d events for 400 log-ins from one address", n)
	}
	id, _ := users.Vouch("alice")
	all[0].once.Add(home, id) // it may wait: what is revoked now must not be told later
	all[0].once.Revoke(home)
	eventually(t, "it is known nowhere", func() bool { _, ok := all[1].once.LookupElsewhere(t.Context(), home); return !ok })
	all[0].tellOnceAgain()
	all[0].once.Add(home, id)
	eventually(t, "who comes then is known at once", func() bool {
		e, ok := all[1].once.Lookup(home)
		return ok && e.User == "alice"
	})
}

// Of more addresses than are kept, the news of one that waited were told after those that
// came later, and were what the fleet believed.
func TestNewsAreInOrder(t *testing.T) {
	n := onceNews{told: make(map[netip.Addr]time.Duration), waiting: make(map[netip.Addr]onceTold)}
	for i := range maxOnceNews {
		n.isFirst(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), onceTold{}, 0)
	}
	addr := netip.AddrFrom4([4]byte{10})
	if n.isFirst(addr, onceTold{}, onceQuiet/2) || len(n.waiting) != 1 {
		t.Fatal("they do not wait")
	}
	if !n.isFirst(addr, onceTold{}, onceQuiet) || len(n.waiting) != 0 {
		t.Error("older ones wait still")
	}
	for range 2 {
		if !n.isFirst(home, onceTold{}, onceQuiet) || len(n.told) != maxOnceNews {
			t.Errorf("one address too many waits, or is kept: %d are", len(n.told))
		}
	}
}
