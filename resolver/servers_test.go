package resolver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"cleversocks/conn/task"
)

// TestLastLeaves cancels a query when the last look-up that waits for it ends,
// and asks anew for the next one.
func TestLastLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{hangs: true}
		r := withScripts(t, testOptions(t), s)
		var waiting sync.WaitGroup
		for i := range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i+1)*100*ms)
			defer cancel()
			waiting.Go(func() {
				if _, err := r.Lookup(ctx, "a.test", IPv4); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("look-up %d: %v", i, err)
				}
			})
		}
		pass(299 * ms)
		if s.count() != 1 || s.gaveUp() != 0 {
			t.Errorf("asked %d times, gave up %d, while one still waits", s.count(), s.gaveUp())
		}
		waiting.Wait()
		if s.gaveUp() != 0 {
			t.Error("given up at once: who comes right behind asks again")
		}
		pass(linger)
		if s.gaveUp() != 1 {
			t.Errorf("%d queries given up when nobody waits, want 1", s.gaveUp())
		}
		s.set(func(s *scripted) { s.hangs, s.records = false, []string{"a.test. 60 IN A 192.0.2.1"} })
		if err := lookup(t, r, "a.test"); err != nil {
			t.Error(err)
		}
	})
}

// TestClose ends look-ups under way and refuses others.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := withScripts(t, testOptions(t), &scripted{hangs: true})
		ended := make(chan error, 1)
		go func() { ended <- lookup(t, r, "a.test") }()
		synctest.Wait()
		r.Close()
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Errorf("under way: %v", err)
		}
		if err := lookup(t, r, "b.test"); !errors.Is(err, ErrClosed) {
			t.Errorf("later: %v", err)
		}
	})
}

// TestDeadServer asks the next server after the stagger, takes the first
// answer, and asks a server last that leaves a probe unanswered too, until
// another probe finds it in order.
func TestDeadServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var records []string
		for i := range 10 {
			records = append(records, fmt.Sprintf("n%d.test. 60 IN A 192.0.2.1", i))
		}
		dead, good := &scripted{records: records, hangs: true}, &scripted{records: records, after: 10 * ms}
		r := withScripts(t, testOptions(t), dead, good)
		serving(t, r)
		stagger := r.state.Load().group.stagger
		for i, want := range []time.Duration{stagger + 10*ms, 10 * ms, 10 * ms} {
			start := time.Now()
			if err := lookup(t, r, fmt.Sprintf("n%d.test", i)); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took != want {
				t.Errorf("look-up %d took %v, want %v", i, took, want)
			}
			pass(tick + probeWait + ms)
		}
		if got, want := r.Servers(), []ServerState{{"server0", true}, {"server1", false}}; !slices.Equal(got, want) {
			t.Errorf("the servers' state: %v, want %v", got, want)
		}
		if got := r.Cached("n0.test"); len(got) != 1 || got[0].From != "server1" {
			t.Errorf("cached: %+v", got)
		}
		dead.set(func(s *scripted) { s.hangs = false })
		pass(time.Minute)
		before := good.count()
		if err := lookup(t, r, "n5.test"); err != nil {
			t.Fatal(err)
		}
		if good.count() != before {
			t.Error("the first server works again and is not asked first")
		}
	})
}

// TestSlowNameIsNoDeadServer: two unanswered queries for one slow name once
// marked the inner network's server down. The next of its names went to the
// public server, got "no such host", and that was cached.
func TestSlowNameIsNoDeadServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &scripted{records: []string{"a.inner.test. 60 IN A 192.0.2.1"}, silentAbout: "slow.test"}
		public := &scripted{rcode: dns.RcodeNameError, records: []string{"test. 60 IN SOA ns.test. root.test. 1 2 3 4 60"}}
		r := withScripts(t, testOptions(t), inner, public)
		serving(t, r)
		for range 3 {
			if err := lookup(t, r, "slow.test"); !errors.Is(err, ErrNotFound) {
				t.Errorf("what the next server says when the first is silent to the end: %v", err)
			}
			pass(10 * time.Second)
		}
		asked := public.count()
		if err := lookup(t, r, "a.inner.test"); err != nil {
			t.Error(err)
		}
		if public.count() != asked {
			t.Error("an inner name went to the public server")
		}
	})
}

// TestWeakDenial: that a name does not exist is the last word only of a server
// that none stands in front of. One whose answer is late is waited for, and what
// another says while it cannot be heard is not cached.
func TestWeakDenial(t *testing.T) {
	const soa = "test. 60 IN SOA ns.test. root.test. 1 2 3 4 60"
	synctest.Test(t, func(t *testing.T) {
		inner := &scripted{records: []string{"late.inner.test. 60 IN A 192.0.2.1", "down.inner.test. 60 IN A 192.0.2.1"}, after: 3 * time.Second}
		public := &scripted{rcode: dns.RcodeNameError, records: []string{soa}}
		r := withScripts(t, testOptions(t), inner, public)
		if err := lookup(t, r, "late.inner.test"); err != nil {
			t.Errorf("a late answer of the first server: %v", err)
		}
		inner.set(func(s *scripted) { s.after, s.err = 0, errors.New("down") })
		if err := lookup(t, r, "down.inner.test"); !errors.Is(err, ErrNotFound) {
			t.Errorf("the first server is down: %v", err)
		}
		inner.set(func(s *scripted) { s.err = nil })
		if err := lookup(t, r, "down.inner.test"); err != nil {
			t.Errorf("the first server is back: %v", err)
		}
		inner.set(func(s *scripted) { s.err = errors.New("down") })
		pass(2 * time.Minute)
		if err := lookup(t, r, "down.inner.test"); err != nil {
			t.Errorf("known, stale, and denied by a server behind the one that is down: %v", err)
		}
	})
}

// TestQueryPanics: a panic in a query fails this one; it is counted, and the
// next server's answer is taken.
func TestQueryPanics(t *testing.T) {
	counted := make(chan string, 8)
	opts := testOptions(t)
	opts.Panics = &task.Reporter{Count: func(where string) { counted <- where }}
	synctest.Test(t, func(t *testing.T) {
		r := withScripts(t, opts, &scripted{panics: true}, &scripted{records: []string{"a.test. 60 IN A 192.0.2.1"}})
		if err := lookup(t, r, "a.test"); err != nil {
			t.Error(err)
		}
	})
	if where := <-counted; where != "dns query" {
		t.Errorf("counted at %q", where)
	}
}

// TestSlowAnswer takes an answer that comes after the stagger, from the only
// server: asking again must not lose it.
func TestSlowAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{records: []string{"a.test. 60 IN A 192.0.2.1"}, after: 4 * time.Second}
		r := withScripts(t, testOptions(t), s)
		start := time.Now()
		if err := lookup(t, r, "a.test"); err != nil || time.Since(start) != 4*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		s.set(func(s *scripted) { s.hangs = true })
		start = time.Now()
		if err := lookup(t, r, "b.test"); !errors.Is(err, ErrTimeout) || time.Since(start) != 5*time.Second {
			t.Errorf("%v after %v, want a time-out after 5s", err, time.Since(start))
		}
	})
}

// TestSearch: the names that resolv.conf's search list makes of one are told
// to the caller, whose rules judge them, and are not asked for by Lookup, which
// once let "wiki" past a rule about "*.corp.example".
func TestSearch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{records: []string{"h.one.test. 60 IN A 192.0.2.1"}}
		r := withScripts(t, testOptions(t), s)
		if got := r.Search("h"); got != nil {
			t.Errorf("servers that are no system's: %v", got)
		}
		st := r.state.Load()
		st.search, st.conf.search, st.conf.ndots = true, []string{"one.test", "two.test"}, 2
		for name, want := range map[string][]string{
			"h":               {"h.one.test", "h.two.test", "h"},
			"a.b":             {"a.b.one.test", "a.b.two.test", "a.b"},
			"a.b.c":           {"a.b.c", "a.b.c.one.test", "a.b.c.two.test"},
			"here":            nil, // by the hosts file
			"localhost":       nil,
			"x.localhost":     nil,
			"hidden.onion":    nil,
			"192.0.2.1":       nil,
			"nowhere.invalid": nil,
		} {
			if got := r.Search(name); !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", name, got, want)
			}
		}
		if _, err := r.Lookup(t.Context(), "h", IPv4); !errors.Is(err, ErrNotFound) {
			t.Errorf("h: %v, want it asked for as it is", err)
		}
		if _, err := r.Lookup(t.Context(), "h.one.test", IPv4); err != nil {
			t.Error(err)
		}
	})
}

// TestWatch takes over changed files, and keeps what was when they cannot be
// read.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := testOptions(t, System)
		r := newResolver(t, opts)
		serving(t, r)
		if err := lookup(t, r, "new.test.invalid"); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		writeFile(t, opts.Hosts, "192.0.2.8 new.test\n")
		writeFile(t, opts.ResolvConf, "nameserver 192.0.2.53\nnameserver 192.0.2.54\n")
		pass(2 * tick)
		if err := lookup(t, r, "new.test"); err != nil {
			t.Errorf("after the hosts file changed: %v", err)
		}
		ids := func() (out []string) {
			for _, s := range r.state.Load().servers {
				out = append(out, s.id)
			}
			return out
		}
		want := []string{"udp://192.0.2.53:53", "udp://192.0.2.54:53"}
		if diff := cmp.Diff(want, ids()); diff != "" {
			t.Error(diff)
		}
		long := make([]byte, 1<<17) // one line that no reader takes
		for i := range long {
			long[i] = 'x'
		}
		writeFile(t, opts.Hosts, string(long))
		pass(2 * tick)
		if err := lookup(t, r, "new.test"); err != nil {
			t.Errorf("after a bad hosts file: %v", err)
		}
	})
}

// TestWatchWaitsForTheWriter: whoever writes resolv.conf anew empties it
// first, or takes it away. A look at that moment made this host the name
// server, where there is none, and threw the cache away with all that could
// have been served stale.
func TestWatchWaitsForTheWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := testOptions(t, System)
		r := newResolver(t, opts)
		r.watch()
		const text = "nameserver 192.0.2.53\n"
		for i, begin := range []func(){
			func() { writeFile(t, opts.ResolvConf, "") },
			func() {
				if err := os.Remove(opts.ResolvConf); err != nil {
					t.Error(err)
				}
			},
		} {
			before := r.state.Load().servers
			begin()
			r.watch()
			if now := r.state.Load().servers; now[0] != before[0] {
				t.Errorf("case %d: a half-written file is in force: %s", i, now[0].id)
			}
			writeFile(t, opts.ResolvConf, text[:len(text)-i-1]+"\n")
			r.watch()
			r.watch()
			if now := r.state.Load().servers; now[0] == before[0] {
				t.Errorf("case %d: the new file is not in force", i)
			}
		}
	})
}

// TestReconfigure keeps the cache and the servers that stay, and everything
// when the new options are wrong.
func TestReconfigure(t *testing.T) {
	opts := testOptions(t, "udp://192.0.2.1", "udp://192.0.2.2")
	r := newResolver(t, opts)
	before := r.state.Load()
	opts.Timeout = time.Second
	if err := r.Reconfigure(opts); err != nil {
		t.Fatal(err)
	}
	same := r.state.Load()
	if same.cache != before.cache || same.servers[0] != before.servers[0] || same.opts.Timeout != time.Second {
		t.Error("the cache or the servers changed with the time-out")
	}
	wrong := opts
	wrong.Servers = []string{"udp://nowhere"}
	if err := r.Reconfigure(wrong); err == nil || r.state.Load() != same {
		t.Errorf("took over wrong options: %v", err)
	}
	wrong = opts
	wrong.Hosts = t.TempDir() // a directory
	if err := r.Reconfigure(wrong); err == nil || r.state.Load() != same {
		t.Errorf("took over a bad hosts file: %v", err)
	}
	opts.Servers = []string{"udp://192.0.2.2", "udp://192.0.2.3"}
	if err := r.Reconfigure(opts); err != nil {
		t.Fatal(err)
	}
	after := r.state.Load()
	if after.cache == before.cache || after.servers[0] != before.servers[1] {
		t.Error("other servers: the cache stays, or the server that stays is new")
	}
	opts.ResolvConf = filepath.Join(t.TempDir(), "missing")
	opts.Servers = []string{System}
	if err := r.Reconfigure(opts); err != nil {
		t.Fatal(err)
	}
	if got := r.state.Load().servers[0].id; got != "udp://127.0.0.1:53" {
		t.Errorf("without a resolv.conf: %s", got)
	}
}
