package authsvc

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"cleversocks/metrics"
)

// travelling is what a table tells, as it travels.
func travelling(t *testing.T, list any) []byte {
	t.Helper()
	raw, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func inMemory() StateOptions { return StateOptions{Metrics: &metrics.New().Auth} }

// A source that has failed twice in the predecessor, and once there after the
// hand-over, is banned by the successor; what is told twice counts once, and of
// two bans the later one holds.
func TestThrottlePasses(t *testing.T) {
	o := ThrottleOptions{Max: 4, Window: time.Minute, Ban: time.Minute, BanMax: time.Hour}
	old, next := NewThrottle(o, inMemory()), NewThrottle(o, inMemory())
	source := netip.MustParseAddr("192.0.2.7")
	fail := func(where *Throttle, tag uint64) {
		try, _, err := where.Begin(t.Context(), source, tag)
		if err != nil {
			t.Fatal(err)
		}
		try.End(Wrong)
	}
	fail(old, 1)
	fail(old, 2)
	from, to := old.Table(), next.Table()
	if err := to.Add(travelling(t, from.All())); err != nil {
		t.Fatal(err)
	}
	if news := travelling(t, from.News()); string(news) != "[]" {
		t.Errorf("told twice: %s", news)
	}
	fail(old, 3)
	news := travelling(t, from.News())
	for range 2 {
		if err := to.Add(news); err != nil {
			t.Fatal(err)
		}
	}
	if next.Banned(source) {
		t.Fatal("three of four failures ban")
	}
	fail(next, 4)
	if !next.Banned(source) {
		t.Fatal("four failures ban nobody")
	}
	until := next.Bans()[0].Until
	if err := to.Add(travelling(t, []savedBan{{Source: source, Since: time.Now(), Until: time.Now().Add(time.Second), Level: 1}})); err != nil {
		t.Fatal(err)
	}
	if got := next.Bans(); len(got) != 1 || !got[0].Until.Equal(until) {
		t.Errorf("an earlier end: %v", got)
	}
	later := time.Now().Add(30 * time.Minute).Round(0)
	if err := to.Add(travelling(t, []savedBan{{Source: source, Since: time.Now(), Until: later, Level: 3}})); err != nil {
		t.Fatal(err)
	}
	if got := next.Bans(); len(got) != 1 || !got[0].Until.Equal(later) || got[0].Level != 3 || next.metrics.BansActive.Load() != 1 {
		t.Errorf("a later end: %v, %d active", got, next.metrics.BansActive.Load())
	}
}

// Quotas are one count over two processes: what the old one had and still adds,
// and what the new one adds, which the old one follows.
func TestQuotasPass(t *testing.T) {
	old, next := NewQuotas(inMemory()), NewQuotas(inMemory())
	a := old.Of(alice)
	a.Moved(100)
	from, to := old.Table(), next.Table()
	if err := to.Add(travelling(t, from.All())); err != nil {
		t.Fatal(err)
	}
	a.Moved(10)
	next.Of(alice).Moved(5)
	if err := to.Add(travelling(t, from.News())); err != nil {
		t.Fatal(err)
	}
	if news := travelling(t, from.News()); string(news) != "[]" {
		t.Errorf("told twice: %s", news)
	}
	a.Moved(1) // not told yet
	if err := from.Follow(travelling(t, to.Totals())); err != nil {
		t.Fatal(err)
	}
	if here, there := usedBy(old, alice.Name), usedBy(next, alice.Name); here != 116 || there != 115 {
		t.Errorf("%d in the old one, %d in the new one", here, there)
	}
}

// What a predecessor counted in a period that is over does not count in the
// next, and does not put it back.
func TestLateUsageOfAnEarlierPeriod(t *testing.T) {
	next := NewQuotas(inMemory())
	u := next.Of(alice)
	u.Moved(7)
	u.mu.Lock()
	before := savedUsage{User: []byte(alice.Name), Start: u.start.Add(-u.period), Used: 1000, Period: u.period}
	u.mu.Unlock()
	if err := next.Table().Add(travelling(t, []savedUsage{before})); err != nil {
		t.Fatal(err)
	}
	if n := usedBy(next, alice.Name); n != 7 {
		t.Errorf("%d", n)
	}
}

// A log-in that the predecessor still sees takes the place of an earlier one.
func TestOncePasses(t *testing.T) {
	o := OnceOptions{TTL: time.Hour, Max: 10}
	old, next := NewOnce(o, inMemory()), NewOnce(o, inMemory())
	addr := netip.MustParseAddr("192.0.2.7")
	old.Add(addr, Identity{User: "alice", Method: MethodPassword})
	from, to := old.Table(), next.Table()
	if err := to.Add(travelling(t, from.All())); err != nil {
		t.Fatal(err)
	}
	old.Add(addr, Identity{User: "bob", Method: MethodPassword})
	if err := to.Add(travelling(t, from.News())); err != nil {
		t.Fatal(err)
	}
	if e, ok := next.Lookup(addr); !ok || e.User != "bob" {
		t.Errorf("%+v, %v", e, ok)
	}
}

// A successor reads and writes no file before its predecessor has passed the
// table on, and the predecessor writes none after.
func TestWhoSaves(t *testing.T) {
	dir := t.TempDir()
	m := &metrics.New().Auth
	old := NewQuotas(StateOptions{Directory: dir, Metrics: m})
	old.Of(alice).Moved(100)
	next := NewQuotas(StateOptions{Directory: dir, Metrics: m, Inherited: true})
	next.Of(alice).Moved(1)
	next.file.save()
	old.file.save()
	if on, _ := newQuotas(dir, nil); usedBy(on, alice.Name) != 100 {
		t.Errorf("%d: the successor has saved", usedBy(on, alice.Name))
	}
	from, to := old.Table(), next.Table()
	from.Yield()
	if err := to.Add(travelling(t, from.All())); err != nil {
		t.Fatal(err)
	}
	to.Keep()
	next.file.save()
	old.Of(alice).Moved(1000)
	old.file.save()
	if on, _ := newQuotas(dir, nil); usedBy(on, alice.Name) != 101 {
		t.Errorf("%d: the predecessor has saved, or the successor has not", usedBy(on, alice.Name))
	}
}
