package shared

import (
	"net/netip"
	"testing"
	"time"

	"cleversocks/aclsvc/ratelimit"
)

// A replica whose clock is ahead of the store's, and that finds it after its start, took
// bans for over when it read them.
func TestBansWithOtherClock(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"ahead": -time.Hour, "behind": time.Hour} {
		t.Run(name, func(t *testing.T) {
			server, url := fake(t)
			server.SetTime(time.Now().Add(ahead))
			a := join(t, url, "a")
			bad := netip.MustParseAddr("198.51.100.1")
			eventually(t, "it knows the time", func() bool { return a.offset.Load() != 0 })
			a.throttle.Impose(bad, 5*time.Minute)
			eventually(t, "the ban is stored", func() bool { return server.Exists("cs:{bans}:data") })
			late := join(t, url, "late")
			eventually(t, "a new replica has it", func() bool { return late.throttle.Banned(bad) })
			if d := time.Until(late.throttle.Bans()[0].Until); d < 3*time.Minute || d > 6*time.Minute {
				t.Errorf("for %s", d)
			}
		})
	}
}

// After a failover to an empty store whose clock is behind, a replica waited for events
// later than the last one that it had read, and missed all until then.
func TestEventsOfStoreThatIsBehind(t *testing.T) {
	server, url := fake(t)
	all := joinAll(t, url, 2)
	if _, err := server.XAdd(all[0].keys.events(), "99999999999999-0", []string{"x", "y"}); err != nil {
		t.Fatal(err)
	}
	all[0].Killed([]byte("{}"))
	killed := func(n int) func() bool {
		return func() bool {
			all[1].mu.Lock()
			defer all[1].mu.Unlock()
			return len(all[1].killed) >= n
		}
	}
	eventually(t, "the other has read it", killed(1))
	server.FlushAll()
	for _, r := range all {
		if err := r.reconnect(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the next event is read", func() bool { all[0].Killed([]byte("{}")); return killed(2)() })
}

// The store's clock was set back by an hour, and the leases of a replica that had died
// meanwhile lasted an hour longer: so did its place on the list, and whom it put out.
func TestClockSetBack(t *testing.T) {
	server, url := fake(t)
	all := joinAll(t, url, 2)
	for range 6 {
		all[0].enter("alice", 10)
	}
	all[0].PutOut([]string{"bob"})
	if v := all[0].Enter(t.Context(), "carol", home, 0, 1, nil); v != ratelimit.Admitted {
		t.Fatal(v)
	}
	all[0].quiet(t, "alice")
	eventually(t, "the other has heard", func() bool { return all[1].Out("bob") })
	eventually(t, "the store has", func() bool { return len(server.HGet("cs:{u:alice}:conns", all[0].ID())) > 0 })
	all[0].die()
	all[0].stop()
	// The clock goes on: what the dead one said last may have come behind the change,
	// and is a lease from then on.
	clock := func() { server.SetTime(time.Now().Add(-time.Hour)) }
	clock()
	held := 0
	eventually(t, "all of the cap is free", func() bool {
		clock()
		if all[1].enter("alice", 10) {
			held++
		}
		return held == 10
	})
	eventually(t, "the other is alone, and nobody is out", func() bool { clock(); return all[1].fleet.count() == 1 && !all[1].Out("bob") })
	eventually(t, "another address may come", func() bool {
		clock()
		return all[1].Enter(t.Context(), "carol", netip.MustParseAddr("192.0.2.8"), 0, 1, nil) == ratelimit.Admitted
	})
}
