package authsvc

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cleversocks/metrics"
)

func newOnce(o OnceOptions, dir string) (*Once, *metrics.Auth) {
	m := &metrics.New().Auth
	return NewOnce(o, StateOptions{Directory: dir, Metrics: m}), m
}

func v4(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }

func by(user string) Identity { return Identity{User: user, Method: MethodPassword} }

func users(t *Once) (out []string) {
	for _, e := range t.List() {
		out = append(out, e.User)
	}
	return out
}

func TestOnceEvictsTheOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		once, m := newOnce(OnceOptions{TTL: time.Hour, Max: 3}, "")
		for i, user := range []string{"a", "b", "c", "d"} {
			once.Add(v4(i), by(user))
			if got, ok := once.Lookup(v4(i)); !ok || got.User != user {
				t.Fatalf("the next connection of %s is not let in", user)
			}
			pass(time.Second)
		}
		if diff := cmp.Diff([]string{"b", "c", "d"}, users(once)); diff != "" {
			t.Error(diff)
		}
		once.Add(v4(1), by("b")) // authenticated again: now the youngest
		pass(time.Second)
		once.Add(v4(9), by("e"))
		if diff := cmp.Diff([]string{"d", "b", "e"}, users(once)); diff != "" {
			t.Error(diff)
		}
		if m.WhitelistSize.Load() != 3 || m.WhitelistEvicted.Of(metrics.EvictedFull).Get() != 2 {
			t.Errorf("size %d, evicted %d", m.WhitelistSize.Load(), m.WhitelistEvicted.Of(metrics.EvictedFull).Get())
		}
		once.Set(OnceOptions{TTL: time.Hour, Max: 1})
		if diff := cmp.Diff([]string{"e"}, users(once)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestOnceExpiresAndRevokes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		once, m := newOnce(OnceOptions{TTL: time.Minute, Max: 10}, "")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- once.Serve(ctx) }()
		once.Add(v4(1), by("a"))
		once.Add(v4(2), by("b"))
		if !once.Revoke(v4(2)) || once.Revoke(v4(2)) {
			t.Error("revoked once, and once only")
		}
		if _, ok := once.Lookup(v4(2)); ok {
			t.Error("let in after it was revoked")
		}
		pass(time.Minute - 1)
		if _, ok := once.Lookup(v4(1)); !ok {
			t.Error("out before its time")
		}
		pass(time.Nanosecond)
		if _, ok := once.Lookup(v4(1)); ok {
			t.Error("in past its time")
		}
		pass(2 * saveInterval)
		once.mu.Lock()
		left := once.entries.Len()
		once.mu.Unlock()
		if left != 0 || m.WhitelistEvicted.Of(metrics.EvictedExpired).Get() != 1 || m.WhitelistSize.Load() != 0 {
			t.Errorf("the sweep left %d", left)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestOnceOverARestart(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		first, _ := newOnce(OnceOptions{TTL: time.Hour, Max: 10}, dir)
		first.Add(v4(1), by("a\xff"))
		first.Add(netip.MustParseAddr("2001:db8::1"), by("b"))
		serveOnce(t, first)
		pass(30 * time.Minute)
		second, _ := newOnce(OnceOptions{TTL: time.Hour, Max: 10}, dir)
		if e, ok := second.Lookup(v4(1)); !ok || e.User != "a\xff" || e.By != MethodPassword {
			t.Errorf("%+v %v after the restart", e, ok)
		}
		pass(30 * time.Minute)
		if _, ok := second.Lookup(v4(1)); ok {
			t.Error("the restart prolonged it")
		}
	})
}

// serveOnce lets a service save by ending it.
func serveOnce(t *testing.T, s interface{ Serve(context.Context) error }) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Serve(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// pass lets time go by on synctest's clock.
func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // in a bubble nothing sleeps
}

// Auth-once let in as alice, after her password had been changed because
// somebody knew it: over a reload, and over a restart by the state file.
func TestOnceEndsWithThePassword(t *testing.T) {
	hashed := func(password string) *Users {
		return newUsers(t, UsersOptions{Users: []UserEntry{{Account: Account{Name: "alice"}, PasswordHash: cheap(password, 8)}}})
	}
	plain := func(password string) *Users {
		return newUsers(t, UsersOptions{User: "alice", Password: password})
	}
	for name, make := range map[string]func(string) *Users{"hashed": hashed, "plain": plain} {
		dir := t.TempDir()
		table, _ := newOnce(OnceOptions{TTL: time.Hour, Max: 10}, dir)
		with := func(u *Users, table *Once) *Admission {
			return admission(t, AdmissionOptions{Required: true, Once: table, Authenticators: []Authenticator{u}}, u)
		}
		if _, err := with(make("old"), table).Verify(t.Context(), &Attempt{Credentials: Password{[]byte("alice"), []byte("old")}, Source: home}); err != nil {
			t.Fatal(err)
		}
		serveOnce(t, table)
		restarted, _ := newOnce(OnceOptions{TTL: time.Hour, Max: 10}, dir)
		for when, table := range map[string]*Once{"reload": table, "restart": restarted} {
			if _, free := with(make("old"), table).Free(home); !free {
				t.Errorf("%s: not let in after a %s with the same password", name, when)
			}
			if id, free := with(make("new"), table).Free(home); free {
				t.Errorf("%s: let in as %s after a %s with another password", name, id.User, when)
			}
		}
	}
}

// Whoever owns one IPv6 /64 has 2^64 addresses to log in from, and pushed
// everybody else off the list.
func TestOnceOneSourceHasItsShare(t *testing.T) {
	once, m := newOnce(OnceOptions{TTL: time.Hour, Max: 16}, "")
	for i := range 10 {
		once.Add(v4(i), by("others"))
	}
	for i := range 1000 {
		once.Add(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 14: byte(i >> 8), 15: byte(i)}), by("eve"))
	}
	count := map[string]int{}
	for _, e := range once.List() {
		count[e.User]++
	}
	if count["others"] != 10 || count["eve"] != 2 || m.WhitelistSize.Load() != 12 {
		t.Errorf("%v", count)
	}
	for _, e := range once.List() {
		once.Revoke(e.Addr)
	}
	if len(once.hosts) != 0 {
		t.Errorf("left behind: %v", once.hosts)
	}
}

// A clock that was ten years ahead when the state was written admitted and
// banned for ten years.
func TestTimesOfAWrongClockAreCut(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		pass(10 * 365 * 24 * time.Hour)
		once, _ := newOnce(OnceOptions{TTL: time.Hour, Max: 10}, dir)
		once.Add(home, by("a"))
		serveOnce(t, once)
		th, _ := newThrottle(fiveAMinute, dir)
		failUntilBanned(t, th, home, 5)
		serveOnce(t, th)
		if time.Since(began) < time.Hour {
			t.Fatal("the clock stands")
		}
	})
	synctest.Test(t, func(t *testing.T) { // whose clock begins anew
		once, _ := newOnce(OnceOptions{TTL: time.Hour, Max: 10}, dir)
		th, _ := newThrottle(fiveAMinute, dir)
		if _, in := once.Lookup(home); !in || !th.Banned(home) {
			t.Error("forgotten")
		}
		pass(time.Hour)
		if _, in := once.Lookup(home); in || th.Banned(home) {
			t.Error("for ten years")
		}
	})
}
