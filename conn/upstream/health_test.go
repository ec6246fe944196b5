package upstream

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cleversocks/conn/wire"
	"cleversocks/metrics"
)

// farm is a pool whose members' handshakes are the test's, for a synctest
// bubble: no socket is opened.
type farm struct {
	*Pool
	mu     sync.Mutex
	down   map[string]bool // by the hop's host
	took   map[string]time.Duration
	opened map[string]int
}

func newFarm(t *testing.T, strategy Strategy, hosts ...string) *farm {
	t.Helper()
	u := Upstream{Strategy: strategy, Health: Health{Interval: 30 * time.Second, Timeout: 5 * time.Second, Failures: 3}}
	for _, h := range hosts {
		u.Members = append(u.Members, "socks5://"+h+":1")
	}
	f := &farm{down: map[string]bool{}, took: map[string]time.Duration{}, opened: map[string]int{}}
	f.Pool = compile(t, options(u)).Pools()[0]
	for _, m := range f.members {
		m.open = f.open
	}
	return f
}

// TestWarmPoolIsProbed: a member that is out comes back by its probe, with
// connections kept ready too. Once each look at the shelf, every max_idle/2
// (which by default is as long as the probes' interval), and each connection
// taken from it began the wait for the probe anew: the probe never came, and
// the member stayed out for as long as another one worked.
func TestWarmPoolIsProbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, RoundRobin, "a", "b")
		for _, m := range f.members {
			m.shelf = newShelf(Warm{Size: 1, MaxIdle: time.Minute}, &m.metrics.Warm)
		}
		f.set("a", true)
		f.serve(t)
		a := f.members[0]
		time.Sleep(3 * suspicion) //nolint:forbidigo // the bubble's clock
		synctest.Wait()
		if a.isUp() {
			t.Fatal("up after three failures")
		}
		f.set("a", false)
		for range 7 { // clients ask more often than the probe comes
			time.Sleep(5 * time.Second) //nolint:forbidigo // the bubble's clock
			if _, fail := f.get(t); fail != nil {
				t.Fatal(fail)
			}
			a.shelf.ask()
		}
		if !a.isUp() {
			t.Error("still out after its interval")
		}
	})
}

func (f *farm) open(ctx context.Context, hops chain, _ []byte) (*prepared, *Error) {
	host := hops[0].addr.Name
	f.mu.Lock()
	f.opened[host]++
	down, took := f.down[host], f.took[host]
	f.mu.Unlock()
	select {
	case <-time.After(took):
	case <-ctx.Done():
		return nil, hopError(hops[0], "dial", ctx.Err())
	}
	if down {
		return nil, hopError(hops[0], "dial", errors.New("down"))
	}
	return &prepared{conn: &net.TCPConn{}, raw: &net.TCPConn{}}, nil
}

func (f *farm) set(host string, down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down[host] = down
}

func (f *farm) count(host string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.opened[host]
}

// get goes through the pool as a request would, up to the last hop's word.
func (f *farm) get(t *testing.T) (Info, *Error) {
	t.Helper()
	_, info, fail := f.through(t.Context(), asker{}, func(context.Context, *prepared, Hop) *Error { return nil })
	return info, fail
}

func (f *farm) serve(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = f.Serve(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	synctest.Wait()
}

// TestEjection: a failed request has the member probed at once; after three
// failures in a row it is out, and it comes back with the probe that works.
func TestEjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, RoundRobin, "a", "b")
		f.serve(t)
		a := f.members[0]
		f.set("a", true)
		before := f.count("a")
		info, fail := f.get(t) // a fails, b serves
		if fail != nil || !strings.Contains(info.Member, "b:1") {
			t.Fatal(info, fail)
		}
		synctest.Wait()
		if got := f.count("a") - before; got != 2 {
			t.Errorf("%d handshakes: want the request's and the probe's at once", got)
		}
		if !a.isUp() {
			t.Error("out after two failures")
		}
		time.Sleep(suspicion) //nolint:forbidigo // the bubble's clock
		synctest.Wait()
		if a.isUp() || a.metrics.Up.Load() != 0 {
			t.Error("up after three failures")
		}
		// Out: nobody is sent there, and it is probed at its interval.
		before = f.count("a")
		for range 10 {
			if _, fail := f.get(t); fail != nil {
				t.Fatal(fail)
			}
		}
		if got := f.count("a") - before; got != 0 {
			t.Errorf("%d handshakes with a member that is out", got)
		}
		f.set("a", false)
		time.Sleep(30 * time.Second) //nolint:forbidigo // the bubble's clock
		synctest.Wait()
		if !a.isUp() || a.metrics.Up.Load() != 1 {
			t.Error("still out though its probe works")
		}
	})
}

// TestActiveProbe takes a member out that no request has met.
func TestActiveProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, RoundRobin, "a", "b")
		f.mu.Lock()
		f.took["b"] = time.Hour // it hangs: the probe's timeout ends it
		f.mu.Unlock()
		f.serve(t)
		time.Sleep(3*5*time.Second + 2*suspicion) //nolint:forbidigo // the bubble's clock
		synctest.Wait()
		if f.members[1].isUp() || !f.members[0].isUp() {
			t.Errorf("a up %v, b up %v", f.members[0].isUp(), f.members[1].isUp())
		}
	})
}

// TestAllDown: one member is tried all the same, and success brings it back.
func TestAllDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, RoundRobin, "a", "b", "c")
		for _, h := range []string{"a", "b", "c"} {
			f.set(h, true)
		}
		for range 9 {
			_, _ = f.get(t)
		}
		for _, m := range f.members {
			if m.isUp() {
				t.Fatalf("%s is up", m.label)
			}
		}
		total := func() int { return f.count("a") + f.count("b") + f.count("c") }
		before := total()
		if _, fail := f.get(t); fail == nil || total()-before != 1 {
			t.Errorf("%v, %d tried", fail, total()-before)
		}
		for _, h := range []string{"a", "b", "c"} {
			f.set(h, false)
		}
		info, fail := f.get(t)
		if fail != nil {
			t.Fatal(fail)
		}
		for _, m := range f.Status() {
			if m.Up != (m.Member == info.Member) {
				t.Errorf("%+v after a success through %s", m, info.Member)
			}
		}
	})
}

func TestStrategies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		used := func(f *farm, n int) map[string]int {
			got := map[string]int{}
			for range n {
				info, fail := f.get(t)
				if fail != nil {
					t.Fatal(fail)
				}
				info.Release()
				got[strings.TrimSuffix(strings.TrimPrefix(info.Member, "socks5://"), ":1")]++
			}
			return got
		}
		if got := used(newFarm(t, RoundRobin, "a", "b", "c"), 9); got["a"] != 3 || got["b"] != 3 || got["c"] != 3 {
			t.Errorf("round robin: %v", got)
		}
		if got := used(newFarm(t, Random, "a", "b"), 200); got["a"] == 0 || got["b"] == 0 {
			t.Errorf("random: %v", got)
		}
		f := newFarm(t, Fastest, "a", "b", "c")
		f.took["a"], f.took["b"], f.took["c"] = 30*time.Millisecond, 10*time.Millisecond, 20*time.Millisecond
		used(f, 3) // one each: the unknown come first
		if got := used(f, 10); got["b"] != 10 {
			t.Errorf("fastest: %v", got)
		}
		f = newFarm(t, LeastConnections, "a", "b", "c")
		var held []Info
		for range 6 {
			info, fail := f.get(t)
			if fail != nil {
				t.Fatal(fail)
			}
			held = append(held, info)
		}
		for _, m := range f.Status() {
			if m.Active != 2 {
				t.Errorf("least connections: %+v", m)
			}
		}
		held[1].Release()
		if info, _ := f.get(t); info.Member != held[1].Member {
			t.Errorf("went to %s, not to %s which has least", info.Member, held[1].Member)
		}
	})
}

// TestReloadKeeps: what is known of a member that stays survives a reload.
func TestReloadKeeps(t *testing.T) {
	m := metrics.New()
	o := options(Upstream{Members: []string{"socks5://a:1", "socks5://b:1"}, Health: Health{Failures: 1}})
	o.Metrics = &m.Upstream
	old := compile(t, o)
	for _, member := range old.pools[0].members {
		member.failed(errors.New("down"))
	}
	o.Previous = old
	o.Upstreams[0].Members = []string{"socks5://x:y@b:1", "socks5://c:1", "socks5://a:1"}
	next := compile(t, o)
	up := map[string]bool{}
	for _, s := range next.Pools()[0].Status() {
		up[s.Member] = s.Up
	}
	if up["socks5://a:1"] || !up["socks5://b:1"] || !up["socks5://c:1"] {
		t.Errorf("up %v: a is the old one, b has other credentials, c is new", up)
	}
	o.Upstreams[0].Members = []string{"socks5://c:1"}
	var gone []string
	last := compile(t, o)
	next.Retired(last, func(upstream, member string) {
		gone = append(gone, member)
		m.Upstream.Forget(upstream, member)
	})
	if len(gone) != 2 {
		t.Errorf("retired %v", gone)
	}
	var b strings.Builder
	m.WritePrometheus(&b)
	if s := b.String(); strings.Contains(s, "a:1") || !strings.Contains(s, `cleversocks_upstream_up{upstream="up",member="socks5://c:1"} 1`) {
		t.Error("metrics keep what is gone, or lost what stays")
	}
}

// Settings that are refused leave no series of the members that they name.
func TestRefusedSettingsLeaveNoSeries(t *testing.T) {
	m := metrics.New()
	o := options(Upstream{Members: []string{"socks5://stays:1"}})
	o.Metrics = &m.Upstream
	o.Previous = compile(t, o)
	o.Upstreams = append(o.Upstreams, Upstream{Name: "other", Members: []string{"socks5://passing:1"}})
	o.Forward = []Rule{{To: []string{"*"}, Upstream: "nowhere"}}
	if _, err := Compile(o); err == nil {
		t.Fatal("taken")
	}
	var b strings.Builder
	m.WritePrometheus(&b)
	if s := b.String(); strings.Contains(s, "passing:1") || !strings.Contains(s, "stays:1") {
		t.Error("the series are not those of the members in force")
	}
}

// TestDestinationIsNoFailure: a destination's refusal says nothing of the
// member.
func TestDestinationIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, RoundRobin, "a")
		for range 10 {
			_, _, fail := f.through(t.Context(), asker{}, func(_ context.Context, _ *prepared, hop Hop) *Error {
				return replyError(hop, wire.ReplyConnectionRefused)
			})
			if fail == nil || fail.Code != wire.ReplyConnectionRefused {
				t.Fatal(fail)
			}
		}
		if !f.members[0].isUp() || f.members[0].metrics.Failures.Get() != 0 {
			t.Error("held against the member")
		}
	})
}
