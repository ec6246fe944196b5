package shared

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2/server"

	"cleversocks/aclsvc/ratelimit"
	"cleversocks/authsvc"
	"cleversocks/e2e/written"
)

// A cap is the fleet's: of twenty that come to two replicas by turns, ten may
// come, and as many of twenty that come to one of them.
func TestCapOfFleet(t *testing.T) {
	_, url := fake(t)
	all := joinAll(t, url, 2)
	for name, pick := range map[string]func(i int) *replica{
		"turns": func(i int) *replica { return all[i%2] },
		"one":   func(int) *replica { return all[0] },
	} {
		t.Run(name, func(t *testing.T) {
			admitted := 0
			for i := range 20 {
				if pick(i).enter(name, 10) {
					admitted++
				}
			}
			if admitted != 10 {
				t.Errorf("%d of 20 were let in, the cap is 10", admitted)
			}
		})
	}
}

// However many come at once, to however many replicas, a cap is never exceeded;
// and in the end all of it is in use.
func TestCapUnderLoad(t *testing.T) {
	_, url := fake(t)
	all := joinAll(t, url, 4)
	const most = 21
	var now, highest atomic.Int64
	var wg sync.WaitGroup
	for _, r := range all {
		for range 8 {
			wg.Go(func() {
				for range 60 {
					if !r.enter("alice", most) {
						continue
					}
					n := now.Add(1)
					for h := highest.Load(); n > h && !highest.CompareAndSwap(h, n); h = highest.Load() {
					}
					after(t.Context(), time.Millisecond)
					now.Add(-1)
					r.Leave("alice", home)
				}
			})
		}
	}
	wg.Wait()
	if highest.Load() > most {
		t.Errorf("%d at once, the cap is %d", highest.Load(), most)
	}
	held := 0
	eventually(t, "all of the cap can be used", func() bool {
		if all[held%4].enter("alice", most) {
			held++
		}
		return held == most
	})
}

// A connection below half of its user's cap makes no call, and one above makes
// one.
func TestCallsPerConnection(t *testing.T) {
	_, url := fake(t)
	r := joinAll(t, url, 1)[0]
	calls := func() uint64 { return r.metrics.Shared.Calls.Of("enter", "ok").Get() }
	for range 50 {
		r.enter("alice", 100)
	}
	if n := calls(); n != 0 {
		t.Errorf("%d calls for 50 connections of 100", n)
	}
	for i := range 50 {
		before := calls()
		if !r.enter("alice", 100) || calls() > before+1 {
			t.Errorf("connection %d: %d calls", 51+i, calls()-before)
		}
	}
	if r.enter("alice", 100) {
		t.Error("one too many is let in")
	}
}

// What a replica holds ends with its lease when it dies, and is given back at
// once when it goes in peace.
func TestDeathAndDeparture(t *testing.T) {
	for name, die := range map[string]func(r *replica){
		"death":     func(r *replica) { r.die(); r.stop() },
		"departure": func(r *replica) { r.stop() },
	} {
		t.Run(name, func(t *testing.T) {
			_, url := fake(t)
			all := joinAll(t, url, 2)
			for range 8 {
				all[0].enter("alice", 10)
			}
			all[0].quiet(t, "alice")
			began := time.Now()
			die(all[0])
			held := 0
			eventually(t, "all of the cap is free again", func() bool {
				if all[1].enter("alice", 10) {
					held++
				}
				return held == 10
			})
			if took := time.Since(began); name == "death" && took > quick.lease+10*time.Second {
				t.Errorf("it took %s, the lease is %s", took, quick.lease)
			}
		})
	}
}

// A store that is wiped is whole again within a beat: nobody is refused, and
// the sums are right.
func TestWipedStore(t *testing.T) {
	server, url := fake(t)
	all := joinAll(t, url, 2)
	for range 3 {
		all[0].enter("alice", 10)
		all[1].enter("alice", 10)
	}
	all[0].throttle.Impose(netip.MustParseAddr("198.51.100.9"), time.Minute)
	eventually(t, "the ban is stored", func() bool { return server.Exists("cs:{bans}") })
	server.FlushAll()
	eventually(t, "the sums are back", func() bool {
		sum := 0
		for _, r := range all {
			var n, rest int
			_, _ = fmt.Sscanf(server.HGet("cs:{u:alice}:conns", r.ID()), "%d:%d", &n, &rest)
			sum += n
		}
		return sum == 6 && server.Exists("cs:{bans}")
	})
	for _, r := range all { // the first to come back took itself for the only one, and let one too many in
		if n := r.fleet.count(); n != 2 {
			t.Errorf("a replica sees %d of two", n)
		}
	}
	admitted := 0
	for i := range 10 {
		if all[i%2].enter("alice", 10) {
			admitted++
		}
	}
	if admitted != 4 {
		t.Errorf("%d more were let in, 4 places were left", admitted)
	}
}

// Distinct addresses are the fleet's: of three, two may come, wherever; and the
// place of one that has gone is free.
func TestAddressesOfFleet(t *testing.T) {
	_, url := fake(t)
	all := joinAll(t, url, 2)
	from := func(r *replica, last byte) ratelimit.Verdict {
		return r.Enter(t.Context(), "alice", netip.AddrFrom4([4]byte{192, 0, 2, last}), 0, 2, nil)
	}
	if a, b, again, c := from(all[0], 1), from(all[1], 2), from(all[1], 1), from(all[1], 3); a+b+again != 3*ratelimit.Admitted || c != ratelimit.TooWide {
		t.Errorf("verdicts %d %d %d %d", a, b, again, c)
	}
	all[1].Leave("alice", netip.MustParseAddr("192.0.2.2"))
	all[1].quiet(t, "alice")
	if v := from(all[0], 3); v != ratelimit.Admitted {
		t.Errorf("the place that was given back is not free: %d", v)
	}
}

// Failures count wherever they happen, and the ban that they bring is every
// replica's, twice as long each time.
func TestBansOfFleet(t *testing.T) {
	_, url := fake(t)
	all := joinAll(t, url, 3)
	bad := netip.MustParseAddr("198.51.100.1")
	for level := 1; level <= 3; level++ {
		for i, r := range all {
			try, _, err := r.throttle.Begin(t.Context(), bad, uint64(100*level+i))
			if err != nil {
				t.Fatal(err)
			}
			try.End(authsvc.Wrong)
		}
		for i, r := range all {
			var b authsvc.Ban
			eventually(t, "every replica bans it", func() bool {
				list := r.throttle.Bans()
				if len(list) == 1 {
					b = list[0]
				}
				return len(list) == 1 && b.Level == level
			})
			want := min(100*time.Second<<(level-1), 400*time.Second)
			if got := b.Duration(); (got - want).Abs() > 2*time.Second {
				t.Errorf("replica %d: ban %d is %s long, want %s", i, level, got, want)
			}
		}
		// As if it were over: the level stays.
		for _, r := range all {
			r.throttle.Forget(bad)
		}
		key := all[0].keys.ban(bad)
		c := *all[0].client.Load()
		if err := c.Do(t.Context(), c.B().Hset().Key(key).FieldValue().FieldValue("until", "1").Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	all[0].throttle.Impose(bad, time.Minute)
	eventually(t, "an operator's ban is everywhere", func() bool { return all[2].throttle.Banned(bad) })
	if list := all[2].throttle.Bans(); len(list) != 1 || list[0].Replica != "a" {
		t.Errorf("it does not say who banned: %v", list)
	}
	late := join(t, url, "late")
	eventually(t, "a new replica reads the list", func() bool { return late.throttle.Banned(bad) })
	all[1].throttle.Lift(bad)
	for _, r := range append(all, late) {
		eventually(t, "the end of it is everywhere", func() bool { return !r.throttle.Banned(bad) })
	}
}

// vouched is alice, as a log-in would have her.
func vouched(t *testing.T, r *replica) authsvc.Identity {
	t.Helper()
	users, err := authsvc.NewUsers(authsvc.UsersOptions{User: "alice", Password: "secret", Metrics: &r.metrics.Auth})
	if err != nil {
		t.Fatal(err)
	}
	id, _ := users.Vouch("alice")
	return id
}

// A quota is the fleet's; what a replica has moved counts once, however often
// it says so, and after it has gone.
func TestQuotaOfFleet(t *testing.T) {
	_, url := fake(t)
	all := joinAll(t, url, 2)
	alice := &authsvc.Account{Name: "alice", QuotaBytes: 1000, QuotaPeriod: time.Hour}
	all[0].quotas.Of(alice).Moved(300)
	all[1].quotas.Of(alice).Moved(400)
	used := func(r *replica) int64 {
		r.quotas.Of(alice)
		for _, u := range r.quotas.List() {
			if u.User == "alice" {
				return u.Used
			}
		}
		return -1
	}
	for _, r := range all {
		eventually(t, "both know what both have moved", func() bool { return used(r) == 700 })
	}
	all[0].stop()
	late := join(t, url, "late")
	eventually(t, "what the one that has gone moved still counts", func() bool { return used(late) == 700 && used(all[1]) == 700 })
	late.quotas.Of(alice).Moved(300)
	eventually(t, "it is used up everywhere", func() bool { return !all[1].quotas.Of(alice).Moved(0) })
}

// An operator forgets what a user has moved: on all replicas, also on one that says
// a moment later what it had counted before, and one where the user is at the end.
func TestQuotaResetOfFleet(t *testing.T) {
	_, url := fake(t)
	all := joinAll(t, url, 2)
	alice := &authsvc.Account{Name: "alice", QuotaBytes: 1000, QuotaPeriod: time.Hour}
	all[0].quotas.Of(alice).Moved(300)
	all[1].quotas.Of(alice).Moved(700)
	for _, r := range all {
		eventually(t, "it is used up everywhere", func() bool { return !r.quotas.Of(alice).Moved(0) })
	}
	if err := all[0].ResetQuota(t.Context(), alice); err != nil {
		t.Fatal(err)
	}
	all[0].quotas.Reset("alice")
	for _, r := range all {
		eventually(t, "nothing is used any more", func() bool {
			for _, u := range r.quotas.List() {
				if u.User == "alice" && u.Used != 0 {
					return false
				}
			}
			return r.quotas.Of(alice).Moved(0)
		})
	}
	all[1].quotas.Of(alice).Moved(200)
	for _, r := range all {
		eventually(t, "what was moved since counts", func() bool {
			r.quotas.Of(alice)
			for _, u := range r.quotas.List() {
				if u.User == "alice" && u.Used == 200 {
					return true
				}
			}
			return false
		})
	}
}

// A user whom the settings of one replica disable is out on all, until they do
// no more, or the replica has gone.
func TestOutOfFleet(t *testing.T) {
	_, url := fake(t)
	all := joinAll(t, url, 3)
	all[0].PutOut([]string{"alice"})
	eventually(t, "she is out", func() bool { return all[1].Out("alice") && all[2].Out("alice") })
	if all[0].Out("alice") || all[1].Out("bob") {
		t.Error("others are out")
	}
	all[1].PutOut([]string{"alice"})
	eventually(t, "the other says so too", func() bool { return all[0].Out("alice") })
	all[0].PutOut(nil)
	after(t.Context(), 2*quick.beat)
	if !all[2].Out("alice") {
		t.Error("one of two takes it back, and she is in")
	}
	all[1].stop()
	eventually(t, "she is in again", func() bool { return !all[0].Out("alice") && !all[2].Out("alice") })
}

// What an operator kills on one replica is told to the others.
func TestKillOfFleet(t *testing.T) {
	_, url := fake(t)
	all := joinAll(t, url, 2)
	all[0].Killed([]byte(`{"user":"alice"}`))
	eventually(t, "the other is told", func() bool {
		all[1].mu.Lock()
		defer all[1].mu.Unlock()
		return len(all[1].killed) == 1 && all[1].killed[0] == `{"user":"alice"}`
	})
	if len(all[0].killed) != 0 {
		t.Error("the replica hears of itself")
	}
}

// Every replica shows who has connections where.
func TestUsageOfFleet(t *testing.T) {
	_, url := fake(t)
	all := joinAll(t, url, 2)
	all[0].enter("alice", 0)
	all[0].enter("alice", 0)
	all[1].enter("alice", 10)
	eventually(t, "the usage is shown", func() bool {
		list, err := all[1].Replicas(t.Context())
		return err == nil && len(list) == 2 && list[0].Users["alice"] == 2 && list[1].Users["alice"] == 1 && list[1].Self && list[0].Name == "a"
	})
}

// Without the store a replica starts, decides by itself and says so once; when
// the store comes it is used.
func TestStartWithoutStore(t *testing.T) {
	server, url := fake(t)
	addr := server.Addr()
	server.Close()
	var log written.Text
	r := join(t, url, "a", func(o *Options) {
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
		o.Timeout = 20 * time.Millisecond
	})
	eventually(t, "it is degraded", func() bool { return strings.Contains(r.Degraded(), "not answered") && r.health.isDown() })
	for i := range 12 {
		if got := r.enter("alice", 10); got != (i < 10) {
			t.Errorf("connection %d: %v", i, got)
		}
	}
	if n := strings.Count(log.String(), "does not answer"); n != 1 {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
	if err := server.StartAddr(addr); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is not degraded", func() bool { return r.Degraded() == "" })
	eventually(t, "the store knows what is held", func() bool { return strings.HasPrefix(server.HGet("cs:{u:alice}:conns", r.ID()), "10:") })
	if !strings.Contains(log.String(), "answers again") {
		t.Errorf("it does not say that it is back:\n%s", log.String())
	}
}

// With on_error = "deny" nobody comes whom the store would have to agree to.
func TestDeny(t *testing.T) {
	server, url := fake(t)
	server.Close()
	r := join(t, url, "a", func(o *Options) { o.Deny = true })
	eventually(t, "it is down", r.health.isDown)
	if v := r.Enter(t.Context(), "alice", home, 10, 0, nil); v != ratelimit.Unknown {
		t.Errorf("verdict %d", v)
	}
	if v := r.Enter(t.Context(), "bob", home, 0, 0, nil); v != ratelimit.Admitted {
		t.Errorf("bob has no limit, and yet: %d", v)
	}
	eventually(t, "nobody knows what is left of a quota", r.Unsure)
}

// A store that answers too late holds nobody up, and none is refused for it.
func TestSlowStore(t *testing.T) {
	store, url := fake(t)
	r := joinAll(t, url, 1, func(o *Options) { o.Timeout = 20 * time.Millisecond })[0]
	release := make(chan struct{})
	store.Server().SetPreHook(func(*server.Peer, string, ...string) bool { <-release; return false })
	defer close(release)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if !r.enter("alice", 100) {
				t.Error("somebody was refused")
			}
		})
	}
	wg.Wait()
	eventually(t, "the breaker opens", r.health.isDown)
}

// The URL says what kind of store it is; a bad one is refused without being
// repeated.
func TestParseURL(t *testing.T) {
	for url, want := range map[string]string{
		"redis://h":                          "[h:6379] unix=false tls=false master= db=0 user=",
		"redis://app@h:7000/3":               "[h:7000] unix=false tls=false master= db=3 user=app",
		"rediss://app:pw@[2001:db8::1]:7000": "[[2001:db8::1]:7000] unix=false tls=true master= db=0 user=app",
		"valkeys://h":                        "[h:6379] unix=false tls=true master= db=0 user=",
		"redis://a:1,b,c:3":                  "[a:1 b:6379 c:3] unix=false tls=false master= db=0 user=",
		"unix:///run/redis.sock?db=2":        "[/run/redis.sock] unix=true tls=false master= db=2 user=",
		"redis+sentinel://a,b:1/mymaster/4":  "[a:26379 b:1] unix=false tls=false master=mymaster db=4 user=",
		"rediss+sentinel://app@a/m":          "[a:26379] unix=false tls=true master=m db=0 user=app",
		"http://h":                           "",
		"redis://":                           "",
		"redis://h:0":                        "",
		"redis://h:x":                        "",
		"redis://h/x":                        "",
		"redis://h/-1":                       "",
		"redis://a,b/1":                      "",
		"redis://a,,b":                       "",
		"redis+sentinel://a":                 "",
		"unix://relative":                    "",
		"unix+sentinel:///x/m":               "",
		"h:6379":                             "",
		"redis://h?db=1":                     "",
		"redis://%zz:secretword@h":           "",
	} {
		got, err := ParseURL(url)
		if want == "" {
			if err == nil || strings.Contains(err.Error(), "secretword") {
				t.Errorf("%s: %v", url, err)
			}
			continue
		}
		if text := fmt.Sprintf("%v unix=%v tls=%v master=%s db=%d user=%s", got.Addresses, got.Unix, got.TLS, got.Master, got.Database, got.User); err != nil || text != want {
			t.Errorf("%s: %s, %v", url, text, err)
		}
	}
}

// A name with braces keeps to its own hash tag.
func TestKeysKeepTheirTag(t *testing.T) {
	k := keys{"cs:"}
	if got := k.conns("a}{b%"); got != "cs:{u:a%7D%7Bb%25}:conns" {
		t.Error(got)
	}
	if k.conns("alice") != "cs:{u:alice}:conns" || k.ban(home) != "cs:{s:192.0.2.7}:ban" {
		t.Error("the keys are not those of docs/fleet.md")
	}
}
