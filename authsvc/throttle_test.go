package authsvc

import (
	"context"
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cleversocks/metrics"
)

func newThrottle(o ThrottleOptions, dir string) (*Throttle, *metrics.Auth) {
	m := &metrics.New().Auth
	return NewThrottle(o, StateOptions{Directory: dir, Metrics: m}), m
}

var fiveAMinute = ThrottleOptions{Max: 5, Window: time.Minute, Ban: time.Minute, BanMax: 3 * time.Minute}

// guesses numbers the wrong passwords of the tests.
var guesses atomic.Uint64

// Fail is one more guess, with a password of its own.
func (t *Throttle) Fail(addr netip.Addr) (Ban, bool) {
	try, ban, err := t.Begin(context.Background(), addr, guesses.Add(1))
	if err == nil {
		ban = try.End(Wrong)
	}
	return ban, !ban.Until.IsZero()
}

// failUntilBanned fails until a ban comes, at most so many times.
func failUntilBanned(t *testing.T, th *Throttle, addr netip.Addr, most int) Ban {
	t.Helper()
	for range most {
		if b, ok := th.Fail(addr); ok {
			return b
		}
	}
	t.Fatalf("no ban after %d failures", most)
	return Ban{}
}

func TestBansDouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, m := newThrottle(fiveAMinute, "")
		for level, want := range []time.Duration{time.Minute, 2 * time.Minute, 3 * time.Minute, 3 * time.Minute} {
			for range 4 {
				if _, ok := th.Fail(home); ok || th.Banned(home) {
					t.Fatal("banned too early")
				}
			}
			b, ok := th.Fail(home)
			if !ok || b.Duration() != want || b.Level != level+1 || b.Failures != 5 || b.Source.String() != "192.0.2.7/32" {
				t.Fatalf("%+v, want %s", b, want)
			}
			if _, again := th.Fail(home); again {
				t.Error("a failure during the ban brings another")
			}
			pass(want - 1)
			if !th.Banned(home) || th.Banned(v4(1)) {
				t.Error("free too early, or another is banned")
			}
			pass(time.Nanosecond)
			if th.Banned(home) {
				t.Error("banned for too long")
			}
			th.sweep()
			if m.BansActive.Load() != 0 {
				t.Errorf("%d bans active", m.BansActive.Load())
			}
		}
		pass(fiveAMinute.BanMax + 1)
		if b := failUntilBanned(t, th, home, 5); b.Level != 1 {
			t.Errorf("nothing is ever forgotten: %+v", b)
		}
	})
}

func TestFailuresOutsideTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, _ := newThrottle(fiveAMinute, "")
		for range 50 { // four in any minute
			if _, ok := th.Fail(home); ok {
				t.Fatal("banned")
			}
			pass(15 * time.Second)
		}
	})
}

func TestThrottleSources(t *testing.T) {
	o := fiveAMinute
	o.Exempt = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	th, _ := newThrottle(o, "")
	for i := range 5 { // one subscriber, five addresses
		var a [16]byte
		copy(a[:], "\x20\x01\x0d\xb8")
		a[15] = byte(i)
		th.Fail(netip.AddrFrom16(a))
	}
	if !th.Banned(netip.MustParseAddr("2001:db8::ffff")) || th.Banned(netip.MustParseAddr("2001:db8:0:1::")) {
		t.Error("an IPv6 /64 is one source")
	}
	for range 10 {
		if _, ok := th.Fail(netip.MustParseAddr("198.51.100.9")); ok {
			t.Error("an exempt source is banned")
		}
	}
	list := th.Bans()
	if len(list) != 1 || list[0].Source.String() != "2001:db8::/64" {
		t.Errorf("%+v", list)
	}
	if !th.Lift(netip.MustParseAddr("2001:db8::5")) || th.Lift(netip.MustParseAddr("2001:db8::5")) || th.Banned(netip.MustParseAddr("2001:db8::1")) {
		t.Error("lifted once, and once only")
	}
	failUntilBanned(t, th, home, 5)
	o.Exempt = append(o.Exempt, netip.MustParsePrefix("192.0.2.0/24"))
	th.Set(o)
	if th.Banned(home) {
		t.Error("banned although exempt since the reload")
	}
	th.Set(ThrottleOptions{})
	if _, ok := th.Fail(v4(1)); ok || th.Banned(v4(1)) {
		t.Error("max 0 bans")
	}
}

// Whatever the number of sources, memory is bounded, and a ban is the last to
// be forgotten.
func TestThrottleIsBounded(t *testing.T) {
	th, m := newThrottle(fiveAMinute, "")
	failUntilBanned(t, th, home, 5)
	const flood = 3 * throttleShards * sourcesPerShard / 2
	for i := range uint32(flood) {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 10<<24+i)
		th.Fail(netip.AddrFrom4(a))
	}
	n := 0
	for i := range th.shards {
		if len(th.shards[i].sources) > sourcesPerShard {
			t.Fatalf("%d sources in a shard", len(th.shards[i].sources))
		}
		n += len(th.shards[i].sources)
	}
	if got := m.ThrottleEvicted.Get(); int(got) != flood+1-n || n < flood/2 {
		t.Errorf("%d kept, %d evicted, of %d", n, got, flood)
	}
	if !th.Banned(home) {
		t.Error("the flood freed a banned source")
	}
}

func TestBansOverARestart(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		first, _ := newThrottle(fiveAMinute, dir)
		want := failUntilBanned(t, first, home, 5)
		serveOnce(t, first)
		second, m := newThrottle(fiveAMinute, dir)
		want.Failures = 0
		same := cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })
		if diff := cmp.Diff([]Ban{want}, second.Bans(), same, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Error(diff)
		}
		if !second.Banned(home) || m.BansActive.Load() != 1 {
			t.Error("a restart frees")
		}
		pass(time.Minute)
		if b := failUntilBanned(t, second, home, 5); b.Level != 2 {
			t.Errorf("the restart forgot the level: %+v", b)
		}
	})
}
