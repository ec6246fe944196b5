package authsvc

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"cleversocks/metrics"
)

// flood tries wrong passwords from many sources at once, until stop is called.
func flood(u *Users, sources int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range sources {
		wg.Go(func() {
			for ctx.Err() == nil {
				_, err := u.Verify(ctx, v4(i), []byte("alice"), []byte("wrong"))
				if errors.Is(err, ErrBusy) {
					select { // a refused client comes back later
					case <-ctx.Done():
					case <-time.After(10 * time.Millisecond):
					}
				}
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

func floodUsers(tb testing.TB) *Users {
	tb.Helper()
	u := newUsers(tb, UsersOptions{Users: []UserEntry{{Account: Account{Name: "alice"}, PasswordHash: Hash([]byte("right"))}}})
	if _, err := u.Verify(tb.Context(), home, []byte("alice"), []byte("right")); err != nil {
		tb.Fatal(err)
	}
	return u
}

// A user who has authenticated is let in during a flood without a place in
// the queue.
func TestRememberedPassTheFlood(t *testing.T) {
	u := newUsers(t, UsersOptions{
		Users: []UserEntry{{Account: Account{Name: "alice"}, PasswordHash: cheap("right", 8)}},
		Queue: NewQueue(QueueOptions{Concurrency: 1, Waiting: 2}),
	})
	if _, err := u.Verify(t.Context(), home, []byte("alice"), []byte("right")); err != nil {
		t.Fatal(err)
	}
	hold, held := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = u.queue.Do(t.Context(), v4(1), nil, 0, func() { close(held); <-hold })
	})
	<-held // the one place is taken for as long as the test wants
	id, err := u.Verify(t.Context(), home, []byte("alice"), []byte("right"))
	if err != nil || id.User != "alice" {
		t.Error(err)
	}
	close(hold)
	wg.Wait()
}

func BenchmarkVerifyRemembered(b *testing.B) {
	for _, sources := range []int{0, 300} {
		b.Run(map[int]string{0: "quiet", 300: "flood of 300 sources"}[sources], func(b *testing.B) {
			u := floodUsers(b)
			defer flood(u, sources)()
			for b.Loop() {
				if _, err := u.Verify(b.Context(), home, []byte("alice"), []byte("right")); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkVerifyFirst is a first log-in: one hash, behind one of each source
// that waits.
func BenchmarkVerifyFirst(b *testing.B) {
	for _, sources := range []int{0, 1, 8} {
		b.Run(map[int]string{0: "quiet", 1: "one source's flood", 8: "eight sources' flood"}[sources], func(b *testing.B) {
			u := floodUsers(b)
			stops := []func(){}
			for range 64 { // that many attempts of each source
				stops = append(stops, flood(u, sources))
			}
			n := 0
			for b.Loop() {
				n++
				if _, err := u.Verify(b.Context(), home, []byte("alice"), []byte{byte(n), byte(n >> 8)}); !errors.Is(err, ErrCredentials) {
					b.Fatal(err)
				}
			}
			for _, stop := range stops {
				stop()
			}
		})
	}
}

func BenchmarkBanned(b *testing.B) {
	th := NewThrottle(fiveAMinute, StateOptions{Metrics: &metrics.New().Auth})
	for i := range 10_000 {
		for range 5 {
			th.Fail(v4(i))
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		th.Banned(home)
	}
}

// The tables hold under many connections at once, for the race detector.
func TestTablesUnderRace(t *testing.T) {
	once, _ := newOnce(OnceOptions{TTL: time.Minute, Max: 20}, t.TempDir())
	th, _ := newThrottle(fiveAMinute, t.TempDir())
	q, _ := newQuotas(t.TempDir(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	var services, clients sync.WaitGroup
	for _, s := range []interface{ Serve(context.Context) error }{once, th, q} {
		services.Go(func() { _ = s.Serve(ctx) })
	}
	for i := range 8 {
		clients.Go(func() {
			for j := range 200 {
				addr := netip.AddrFrom4([4]byte{10, 1, byte(i), byte(j % 40)})
				once.Add(addr, by("a"))
				once.Lookup(addr)
				th.Fail(addr)
				th.Banned(addr)
				q.Of(alice).Moved(1)
				if j%50 == 0 {
					once.List()
					th.Bans()
					th.Lift(addr)
					th.sweep()
					once.sweep()
					q.List()
				}
			}
		})
	}
	clients.Wait()
	cancel()
	services.Wait()
	if n := once.entries.Len(); n != 20 {
		t.Errorf("%d let in, want the cap of 20", n)
	}
	if n := usedBy(q, alice.Name); n != 1600 {
		t.Errorf("%d bytes counted", n)
	}
}
