package ratelimit

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"cleversocks/authsvc"
)

var home = netip.MustParseAddr("192.0.2.7")

// pass lets time go by on synctest's clock.
func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // in a bubble nothing sleeps
}

// enter admits and leaves so many times, and counts the admitted.
func enter(g *Gate, addr netip.Addr, times int) (admitted int) {
	for range times {
		if g.Enter(addr) == Admitted {
			g.Leave(addr)
			admitted++
		}
	}
	return admitted
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate()
		if n := enter(g, home, 1000); n != 1000 {
			t.Errorf("%d of 1000 without a limit", n)
		}
		g.Set(GateOptions{PerSecond: 2, Burst: 5, Exempt: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}})
		if n := enter(g, home, 100); n != 5 {
			t.Errorf("%d at once, want the burst of 5", n)
		}
		if v := g.Enter(home); v != TooFast {
			t.Errorf("verdict %d", v)
		}
		pass(500*time.Millisecond - 1)
		if n := enter(g, home, 100); n != 0 {
			t.Errorf("%d too early", n)
		}
		pass(time.Nanosecond)
		if n := enter(g, home, 100); n != 1 {
			t.Errorf("%d after half a second, want 1", n)
		}
		pass(time.Hour)
		if n := enter(g, home, 100); n != 5 {
			t.Errorf("%d after an hour, want the burst of 5", n)
		}
		if n := enter(g, netip.MustParseAddr("198.51.100.9"), 100); n != 100 {
			t.Errorf("%d of an exempt source", n)
		}
		if n := enter(g, netip.MustParseAddr("2001:db8::1"), 3) + enter(g, netip.MustParseAddr("2001:db8::2"), 100); n != 5 {
			t.Errorf("%d of one /64, want 5", n)
		}
		if n := enter(g, netip.MustParseAddr("2001:db8:0:1::2"), 100); n != 5 {
			t.Errorf("%d of the next /64, want 5", n)
		}
	})
}

// Over any time, no more pass than the burst and the rate allow, and a source
// that keeps to the rate always passes.
func TestRateProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rate, most := rapid.IntRange(1, 50).Draw(rt, "rate"), rapid.IntRange(1, 20).Draw(rt, "burst")
		waits := rapid.SliceOfN(rapid.IntRange(0, 200), 1, 60).Draw(rt, "waits")
		failed := ""
		synctest.Test(t, func(*testing.T) {
			g := NewGate()
			g.Set(GateOptions{PerSecond: float64(rate), Burst: most})
			begin, admitted := time.Now(), 0
			for _, ms := range waits {
				pass(time.Duration(ms) * time.Millisecond)
				admitted += enter(g, home, 2)
				if limit := float64(most) + time.Since(begin).Seconds()*float64(rate); float64(admitted) > limit+1e-6 {
					failed = "too many"
				}
			}
			pass(time.Second/time.Duration(rate) + 1)
			if enter(g, home, 1) != 1 {
				failed = "refused at the rate"
			}
		})
		if failed != "" {
			rt.Fatal(failed)
		}
	})
}

func TestRateTableIsBounded(t *testing.T) {
	g := NewGate()
	g.Set(GateOptions{PerSecond: 1, Burst: 1})
	for i := range uint32(3 * shardCount * sourcesPerShard / 2) {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 10<<24+i)
		enter(g, netip.AddrFrom4(a), 1)
	}
	for i := range g.shards {
		if n := len(g.shards[i].due); n > sourcesPerShard || len(g.shards[i].open) != 0 {
			t.Fatalf("%d sources, %d open in a shard", n, len(g.shards[i].open))
		}
	}
}

func TestPerSource(t *testing.T) {
	g := NewGate()
	g.Set(GateOptions{PerSource: 2, Exempt: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	a, b := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	if g.Enter(a) != Admitted || g.Enter(b) != Admitted || g.Enter(a) != TooMany {
		t.Error("a /64 has two connections")
	}
	g.Set(GateOptions{PerSource: 1}) // a reload closes nobody
	g.Leave(a)
	if g.Enter(a) != TooMany {
		t.Error("the new limit does not hold")
	}
	g.Leave(b)
	if g.Enter(a) != Admitted {
		t.Error("a place that was left is taken")
	}
	g.Set(GateOptions{PerSource: 2, Exempt: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	var got []Verdict
	for range 3 {
		got = append(got, g.Enter(home))
	}
	if !slices.Equal(got, []Verdict{Admitted, Admitted, TooMany}) {
		t.Error("exempt is from the rate, not from the cap")
	}
}

func TestPerSourceUnderRace(t *testing.T) {
	g := NewGate()
	g.Set(GateOptions{PerSource: 3})
	var wg sync.WaitGroup
	var mu sync.Mutex
	open, most := 0, 0
	for range 8 {
		wg.Go(func() {
			for range 500 {
				if g.Enter(home) != Admitted {
					continue
				}
				mu.Lock()
				open++
				most = max(most, open)
				open--
				mu.Unlock()
				g.Leave(home)
			}
		})
	}
	wg.Wait()
	if most > 3 || len(g.shard(home).open) != 0 {
		t.Errorf("%d at once, %v left", most, g.shard(home).open)
	}
}

func TestUserConnections(t *testing.T) {
	users := NewUsers()
	alice := &authsvc.Account{Name: "alice", MaxConnections: 2}
	enter := func(a *authsvc.Account) (*User, Verdict) { return users.Enter(t.Context(), a, home, nil) }
	first, v1 := enter(alice)
	second, v2 := enter(alice)
	if _, v3 := enter(alice); v1 != Admitted || v2 != Admitted || first != second || v3 != TooMany || first.Open() != 2 {
		t.Error("alice has two connections")
	}
	second.Leave(home)
	if _, v := enter(alice); v != Admitted {
		t.Error("a place that was left is taken")
	}
	a, v1 := enter(nil)
	b, v2 := enter(nil)
	if v1 != Admitted || v2 != Admitted || a == b || wait(&a.Up, 1<<40) != 0 {
		t.Error("without an account there is no limit")
	}
}

func TestLimitsChangeOnReload(t *testing.T) {
	users := NewUsers()
	u, _ := users.Enter(t.Context(), &authsvc.Account{Name: "alice", Up: 1}, home, nil)
	gone, _ := users.Enter(t.Context(), &authsvc.Account{Name: "gone"}, home, nil)
	gone.Leave(home)
	next, err := authsvc.NewUsers(authsvc.UsersOptions{Users: []authsvc.UserEntry{{Account: authsvc.Account{Name: "alice", MaxConnections: 1}}}})
	if err != nil {
		t.Fatal(err)
	}
	users.Set(next)
	if wait(&u.Up, 1<<40) != 0 || len(users.users) != 1 {
		t.Error("the open connection keeps the old limit, or a user who is gone is kept")
	}
	if u.enter(home) != TooMany {
		t.Error("the new cap does not hold")
	}
}

func BenchmarkEnter(b *testing.B) {
	g := NewGate()
	g.Set(GateOptions{PerSecond: 1e9, Burst: 1000, PerSource: 1000})
	b.ReportAllocs()
	for b.Loop() {
		g.Enter(home)
		g.Leave(home)
	}
}

// Datagrams that come too fast are dropped and cost nothing: what is let
// through is the rate, however much is sent.
func TestTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Bucket
		if !b.Take(1 << 40) {
			t.Error("a bucket without a rate drops")
		}
		b.Set(1000)
		passed := 0
		for range 1000 { // 100 bytes each 10 ms, ten times the rate, for 10 s
			if b.Take(100) {
				passed += 100
			}
			pass(10 * time.Millisecond)
		}
		if passed < 9_700 || passed > 11_200 {
			t.Errorf("%d bytes in 10 s at 1000 a second", passed)
		}
	})
}

// max_addresses counts distinct sources at once, an IPv6 /64 as one, and gives
// a place back with the last connection from there.
func TestUserAddresses(t *testing.T) {
	users := NewUsers()
	var u *User
	may := func(source netip.Addr) bool {
		user, v := users.Enter(t.Context(), &authsvc.Account{Name: "alice", MaxAddresses: 2}, source, nil)
		u = user
		return v == Admitted
	}
	a, same, b, c := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	if !may(a) || !may(same) || !may(b) || may(c) {
		t.Error("two sources may come, of three")
	}
	u.Leave(a)
	if may(c) {
		t.Error("the /64 still has a connection")
	}
	u.Leave(same)
	if !may(c) {
		t.Error("the place of the /64 is not given back")
	}
	if u.Open() != 2 {
		t.Errorf("%d connections: who was refused still counts", u.Open())
	}
}

// A fleet has the last word, and what it refuses is given back here.
func TestUserInFleet(t *testing.T) {
	users, others := NewUsers(), &fakeFleet{say: TooWide}
	users.Join(others)
	alice := &authsvc.Account{Name: "alice", MaxConnections: 5, MaxAddresses: 2}
	u, v := users.Enter(t.Context(), alice, netip.MustParseAddr("2001:db8::7"), nil)
	if v != TooWide || u.Open() != 0 {
		t.Errorf("verdict %d, %d open", v, u.Open())
	}
	others.say = Admitted
	u, v = users.Enter(t.Context(), alice, netip.MustParseAddr("2001:db8::7"), nil)
	if v != Admitted || others.held != 1 || others.last != "alice 2001:db8:: 5 2" {
		t.Errorf("verdict %d, %d held, asked %q", v, others.held, others.last)
	}
	u.Leave(netip.MustParseAddr("2001:db8::7"))
	if others.held != 0 {
		t.Error("the fleet does not hear of the end")
	}
}

// A connection that nobody has to be asked for is taken without waiting, and one
// that somebody has to be is not taken.
func TestUserInFleetNow(t *testing.T) {
	users, others := NewUsers(), &fakeFleet{say: TooMany}
	users.Join(others)
	alice := &authsvc.Account{Name: "alice", MaxConnections: 2}
	if u := users.EnterNow(alice, home); u != nil {
		t.Error("she is taken, and the others have not been asked")
	}
	others.say = Admitted
	u := users.EnterNow(alice, home)
	if u == nil || u.Open() != 1 || others.held != 1 {
		t.Fatalf("she is not taken, or not once: %v, %d", u, others.held)
	}
	u.Leave(home)
	if u.Open() != 0 || others.held != 0 {
		t.Errorf("%d and %d are left", u.Open(), others.held)
	}
}

type fakeFleet struct {
	say  Verdict
	held int
	last string
}

func (f *fakeFleet) Enter(_ context.Context, user string, source netip.Addr, most, wide int, _ Holder) Verdict {
	f.last = fmt.Sprint(user, " ", source, " ", most, " ", wide)
	if f.say == Admitted {
		f.held++
	}
	return f.say
}

func (f *fakeFleet) EnterNow(user string, source netip.Addr, most, wide int) bool {
	return f.say == Admitted && f.Enter(context.Background(), user, source, most, wide, nil) == Admitted
}

func (f *fakeFleet) Leave(string, netip.Addr) { f.held-- }
