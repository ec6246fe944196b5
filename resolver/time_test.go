package resolver

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"cleversocks/metrics"
)

// scripted is a transport without a network: it answers each question with
// records, after a while, or fails.
type scripted struct {
	mu      sync.Mutex
	records []string
	rcode   int
	err     error
	after   time.Duration
	hangs   bool // answers nothing, until the context ends
	asked   []string
	ended   int // queries given up
}

func (s *scripted) set(f func(*scripted)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// count is the number of questions so far.
func (s *scripted) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

// gaveUp is the number of queries that were given up.
func (s *scripted) gaveUp() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

func (s *scripted) exchange(ctx context.Context, q question) (*dns.Msg, error) {
	s.mu.Lock()
	s.asked = append(s.asked, q.name)
	records, rcode, failure, after, hangs := s.records, s.rcode, s.err, s.after, s.hangs
	s.mu.Unlock()
	var wait <-chan time.Time
	if !hangs {
		wait = time.After(after)
	}
	select {
	case <-wait:
	case <-ctx.Done():
		s.set(func(s *scripted) { s.ended++ })
		return nil, context.Cause(ctx)
	}
	if failure != nil {
		return nil, failure
	}
	m := new(dns.Msg)
	m.SetReply(q.query(false))
	m.Rcode = rcode
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			return nil, err
		}
		switch {
		case rr.Header().Rrtype == dns.TypeSOA:
			m.Ns = append(m.Ns, rr)
		case rr.Header().Rrtype == q.qtype && rr.Header().Name == dns.Fqdn(q.name):
			m.Answer = append(m.Answer, rr)
		}
	}
	return m, nil
}

func (s *scripted) retire() {}

// withScripts is a Resolver whose servers are scripts.
func withScripts(t *testing.T, opts Options, scripts ...*scripted) *Resolver {
	t.Helper()
	opts.Servers = []string{"udp://192.0.2.53"}
	r := newResolver(t, opts)
	st := r.state.Load()
	st.servers = nil
	for i, script := range scripts {
		st.servers = append(st.servers, &server{id: fmt.Sprintf("server%d", i), label: "udp", transport: script})
	}
	st.group = st.groupOf(st.servers, false)
	return r
}

// serving runs the resolver's service until the test ends.
func serving(t *testing.T, r *Resolver) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve: %v", err)
		}
	})
}

func lookup(t *testing.T, r *Resolver, name string) error {
	t.Helper()
	_, err := r.Lookup(t.Context(), name, IPv4)
	return err
}

// pass lets time go by.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

const ms = time.Millisecond

// TestTTL asks the server again when an answer's time is over, not before.
func TestTTL(t *testing.T) {
	soa := "test. 3600 IN SOA ns.test. root.test. 1 2 3 4 3600"
	for _, tt := range []struct {
		name   string
		cache  CacheOptions
		record string
		want   time.Duration
	}{
		{"as it says", CacheOptions{MaxTTL: time.Hour}, "a.test. 100 IN A 192.0.2.1", 100 * time.Second},
		{"no upper bound", CacheOptions{}, "a.test. 100000 IN A 192.0.2.1", 100000 * time.Second},
		{"at most", CacheOptions{MaxTTL: time.Hour}, "a.test. 100000 IN A 192.0.2.1", time.Hour},
		{"at least", CacheOptions{MinTTL: time.Minute, MaxTTL: time.Hour}, "a.test. 1 IN A 192.0.2.1", time.Minute},
		{"negative, bounded", CacheOptions{NegativeTTL: 30 * time.Second}, soa, 30 * time.Second},
		{"negative, as the zone says", CacheOptions{NegativeTTL: time.Hour}, "test. 20 IN SOA ns.test. root.test. 1 2 3 4 3600", 20 * time.Second},
		{"negative, the zone's minimum", CacheOptions{NegativeTTL: time.Hour}, "test. 3600 IN SOA ns.test. root.test. 1 2 3 4 10", 10 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &scripted{records: []string{tt.record}}
				opts := testOptions(t)
				tt.cache.Size = 100
				opts.Cache = tt.cache
				r := withScripts(t, opts, s)
				first := lookup(t, r, "a.test")
				pass(tt.want - ms)
				if err := lookup(t, r, "a.test"); errors.Is(first, ErrNotFound) != errors.Is(err, ErrNotFound) {
					t.Errorf("from the cache: %v, at first: %v", err, first)
				}
				if s.count() != 1 {
					t.Errorf("asked again %v before the end", ms)
				}
				pass(ms)
				_ = lookup(t, r, "a.test")
				if s.count() != 2 {
					t.Errorf("asked %d times after the end, want 2", s.count())
				}
			})
		})
	}
}

// TestServeStale answers from an old answer while no server works (RFC 8767).
func TestServeStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{records: []string{"a.test. 60 IN A 192.0.2.1"}}
		opts := testOptions(t)
		r := withScripts(t, opts, s)
		steps := []struct {
			name  string
			do    func()
			err   error
			asked int           // in all
			took  time.Duration // the look-up
		}{
			{"fresh", func() {}, nil, 1, 0},
			{"stale, the servers fail", func() { s.set(func(s *scripted) { s.err = errors.New("down") }); pass(time.Minute) }, nil, 2, 0},
			{"stale, the servers left alone", func() { pass(staleRetry - ms) }, nil, 2, 0},
			{"stale, the servers asked again", func() { pass(ms) }, nil, 3, 0},
			{"stale, after the client's wait", func() { s.set(func(s *scripted) { s.hangs = true }); pass(staleRetry) }, nil, 5, staleWait},
			{"too old", func() { pass(2 * time.Hour); s.set(func(s *scripted) { s.hangs = false }) }, ErrServers, 6, 0},
			{"the failure remembered", func() { s.set(func(s *scripted) { s.err = nil }) }, ErrServers, 6, 0},
			{"fresh again", func() { pass(failureTTL) }, nil, 7, 0},
			{"gone for good is not stale", func() { s.set(func(s *scripted) { s.rcode, s.records = dns.RcodeNameError, nil }); pass(time.Minute) }, ErrNotFound, 8, 0},
		}
		for _, step := range steps {
			step.do()
			start := time.Now()
			if err := lookup(t, r, "a.test"); !errors.Is(err, step.err) {
				t.Errorf("%s: %v, want %v", step.name, err, step.err)
			}
			if s.count() != step.asked {
				t.Errorf("%s: asked %d times, want %d", step.name, s.count(), step.asked)
			}
			if took := time.Since(start); took != step.took {
				t.Errorf("%s: took %v, want %v", step.name, took, step.took)
			}
		}
		if n := opts.Metrics.Cache.Of(metrics.CacheStale).Get(); n != 4 {
			t.Errorf("%d stale answers counted, want 4", n)
		}
	})
}

// TestPrefetch asks anew for a name that is in use, in the last tenth of its
// time; its look-ups never wait.
func TestPrefetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{records: []string{"hot.test. 100 IN A 192.0.2.1", "cold.test. 100 IN A 192.0.2.1"}, after: 10 * ms}
		r := withScripts(t, testOptions(t), s)
		serving(t, r)
		if err := errors.Join(lookup(t, r, "cold.test"), lookup(t, r, "hot.test")); err != nil {
			t.Fatal(err)
		}
		for range 100 { // once in five seconds
			pass(5 * time.Second)
			start := time.Now()
			if err := lookup(t, r, "hot.test"); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took != 0 {
				t.Fatalf("a hot name's look-up took %v", took)
			}
		}
		pass(time.Second)
		s.mu.Lock()
		defer s.mu.Unlock()
		cold := 0
		for _, name := range s.asked {
			if name == "cold.test" {
				cold++
			}
		}
		if hot := len(s.asked) - cold; cold != 1 || hot < 5 || hot > 7 {
			t.Errorf("asked %d times for the cold name and %d for the hot one", cold, hot)
		}
	})
}

// TestPrefetchDropped never holds a look-up up when the owner does not listen.
func TestPrefetchDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{}
		for i := range refreshQueue + 10 {
			s.records = append(s.records, fmt.Sprintf("h%d.test. 100 IN A 192.0.2.1", i))
		}
		opts := testOptions(t)
		r := withScripts(t, opts, s)
		for round := range prefetchHits + 1 {
			if round == prefetchHits {
				pass(95 * time.Second)
			}
			for i := range refreshQueue + 10 {
				if err := lookup(t, r, fmt.Sprintf("h%d.test", i)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n := opts.Metrics.Cache.Of(metrics.CachePrefetchDropped).Get(); n != 10 {
			t.Errorf("%d dropped, want 10", n)
		}
	})
}

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
		synctest.Wait()
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

// TestSlowServer asks the next server after the stagger, takes the first
// answer, and asks a server last that was overtaken twice, until a probe
// finds it in order.
func TestSlowServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var records []string
		for i := range 10 {
			records = append(records, fmt.Sprintf("n%d.test. 60 IN A 192.0.2.1", i))
		}
		slow, good := &scripted{records: records, hangs: true}, &scripted{records: records, after: 10 * ms}
		r := withScripts(t, testOptions(t), slow, good)
		serving(t, r)
		stagger := r.state.Load().group.stagger
		for i, want := range []time.Duration{stagger + 10*ms, stagger + 10*ms, 10 * ms} {
			start := time.Now()
			if err := lookup(t, r, fmt.Sprintf("n%d.test", i)); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took != want {
				t.Errorf("look-up %d took %v, want %v", i, took, want)
			}
		}
		if slow.count() != 2 {
			t.Errorf("the slow server was asked %d times, want 2", slow.count())
		}
		slow.set(func(s *scripted) { s.hangs = false })
		pass(20 * time.Second)
		before := good.count()
		if err := lookup(t, r, "n5.test"); err != nil {
			t.Fatal(err)
		}
		if good.count() != before {
			t.Error("the first server works again and is not asked first")
		}
	})
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

// TestSearch goes through resolv.conf's search list, and never mixes the
// addresses of two hosts.
func TestSearch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{records: []string{
			"h.one.test. 60 IN AAAA 2001:db8::1", "h.two.test. 60 IN A 192.0.2.2", "only.two.test. 60 IN A 192.0.2.3", "top. 60 IN A 192.0.2.4",
		}}
		r := withScripts(t, testOptions(t), s)
		st := r.state.Load()
		st.search, st.conf.search, st.conf.ndots = true, []string{"one.test", "two.test"}, 1
		for _, tt := range []struct {
			name   string
			family Family
			err    error
		}{
			{"h", IPv6, nil},
			{"h", IPv4, ErrNotFound}, // h is h.one.test, which has IPv6 alone
			{"only", IPv4, nil},
			{"top", IPv4, nil},
			{"none", IPv4, ErrNotFound},
		} {
			if _, err := r.Lookup(t.Context(), tt.name, tt.family); !errors.Is(err, tt.err) {
				t.Errorf("%s, %s: %v, want %v", tt.name, tt.family, err, tt.err)
			}
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

// TestCacheBound keeps to its size and drops what was not used for longest.
func TestCacheBound(t *testing.T) {
	c := newCache(64)
	now := time.Now()
	evicted := 0
	for i := range 1000 {
		if c.put(entry{key: question{name: fmt.Sprintf("n%d.test", i)}, stored: now, expires: now.Add(time.Hour), until: now.Add(time.Hour)}) {
			evicted++
		}
	}
	if c.len() != 64 || evicted != 1000-64 {
		t.Errorf("%d entries, %d evicted", c.len(), evicted)
	}
	c.sweep(now.Add(2 * time.Hour))
	if c.len() != 0 {
		t.Errorf("%d entries after their end", c.len())
	}
}
