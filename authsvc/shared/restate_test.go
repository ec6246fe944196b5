package shared

import (
	"net/netip"
	"testing"
	"time"

	"cleversocks/authsvc"
)

// A replica that was away, with its tables in files, brought back the ban that was
// lifted meanwhile and the address that was revoked: to itself, and to the whole fleet.
func TestEndedWhileAway(t *testing.T) {
	server, url := fake(t)
	a := joinAll(t, url, 1)[0]
	id := vouched(t, a)
	banned, kept, later := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("198.51.100.3")
	guest := netip.MustParseAddr("192.0.2.8")
	away := prepare(t, url, "away")
	for _, addr := range []netip.Addr{banned, kept, later} {
		a.throttle.Impose(addr, time.Minute)

		for _, b := range a.throttle.Bans() {
			away.throttle.Learn(b)
		}
	}
	for _, addr := range []netip.Addr{home, guest} {
		a.once.Add(addr, id)
	}
	a.once.Encoded(func(_ netip.Addr, entry []byte, _ time.Duration) {
		if err := away.once.Learn(entry); err != nil {
			t.Fatal(err)
		}
	})
	eventually(t, "the store knows all of it", func() bool {
		return server.Exists("cs:{s:192.0.2.8}:once") && server.Exists("cs:{s:198.51.100.3}:ban")
	})
	a.throttle.Lift(banned)
	a.throttle.Lift(later)
	a.throttle.Impose(later, time.Minute) // again: this one holds
	a.once.Revoke(home)
	a.throttle.Lift(netip.MustParseAddr("198.51.100.4")) // of whom the store knows nothing
	eventually(t, "the store knows that it is over", func() bool {
		text, err := server.Get("cs:{s:192.0.2.7}:once")
		return err == nil && text == revokedMark && server.Exists("cs:{s:198.51.100.4}:ban") && server.HGet("cs:{s:198.51.100.3}:ban", "until") != ""
	})
	away.serve(t)
	eventually(t, "the replica forgets it", func() bool {
		_, isIn := away.once.Lookup(home)
		return !isIn && !away.throttle.Banned(banned)
	})
	after(t.Context(), 2*quick.beat)
	if a.throttle.Banned(banned) || server.HGet("cs:{s:198.51.100.1}:ban", "until") != "" {
		t.Error("the ban is back")
	}
	if _, isIn := a.once.LookupElsewhere(t.Context(), home); isIn {
		t.Error("the address is let in again")
	}
	for _, r := range []*replica{a, away} {
		if _, isIn := r.once.Lookup(guest); !isIn || !r.throttle.Banned(kept) || !r.throttle.Banned(later) {
			t.Error("what was not ended is forgotten")
		}
	}
	a.once.Add(home, id)
	eventually(t, "who logs in again is let in everywhere", func() bool { _, isIn := away.once.LookupElsewhere(t.Context(), home); return isIn })
}

// Of thousands of bans and log-ins a wiped store got back those that had room in a
// queue.
func TestWipedStoreGetsAllBack(t *testing.T) {
	const bans, guests = 300, 5000
	server, url := fake(t)
	a := prepare(t, url, "a", func(o *Options) {
		o.Once.Set(authsvc.OnceOptions{TTL: time.Hour, Max: guests})
	})
	for i := range bans {
		now := time.Now()
		source := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		a.throttle.Learn(authsvc.Ban{Source: netip.PrefixFrom(source, 32), Since: now, Until: now.Add(5 * time.Minute), Level: 1, Replica: "b"})
	}
	for i := range guests {
		now := time.Now()
		e := authsvc.OnceEntry{Addr: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), User: "alice", Since: now, Until: now.Add(time.Hour)}
		if err := a.once.Learn(e.Encode()); err != nil {
			t.Fatal(err)
		}
	}
	a.serve(t)
	all := func() bool {
		list, err := server.ZMembers("cs:{bans}")
		return err == nil && len(list) == bans && server.Exists("cs:{s:10.1.0.0}:once") && len(server.Keys()) > bans+guests
	}
	eventuallyIn(t, 3*patience, "a newcomer has told all", all)
	b := join(t, url, "b")
	eventually(t, "the other knows all", func() bool { return len(b.throttle.Bans()) == bans })
	server.FlushAll()
	eventuallyIn(t, 3*patience, "the store knows all again", all)
	if n := a.metrics.Shared.Dropped.Get() + b.metrics.Shared.Dropped.Get(); n > 0 {
		t.Errorf("%d events or calls were dropped", n)
	}
}
