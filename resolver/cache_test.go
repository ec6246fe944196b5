package resolver

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"cleversocks/metrics"
)

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

// TestSilentServersCostOneWait: when the servers say nothing at all, a stale
// name costs one look-up the wait for them, and those after it none. Once only
// a refresh that had failed saved others the wait, and two refreshers that
// spend five seconds each on silent servers never come round: with a hundred
// names in use, every new connection waited 1.8 s for as long as DNS was away.
func TestSilentServersCostOneWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{records: []string{"a.test. 60 IN A 192.0.2.1"}}
		r := withScripts(t, testOptions(t), s) // the refreshers are busy: nobody serves
		if err := lookup(t, r, "a.test"); err != nil {
			t.Fatal(err)
		}
		s.set(func(s *scripted) { s.hangs = true })
		pass(time.Minute)
		for i, want := range []time.Duration{staleWait, 0, 0, staleWait} {
			start := time.Now()
			if err := lookup(t, r, "a.test"); err != nil {
				t.Error(err)
			}
			if took := time.Since(start); took != want {
				t.Errorf("look-up %d: took %v, want %v", i, took, want)
			}
			pass(staleRetry / 3)
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

// len is the number of entries.
func (c *cache) len() int {
	n := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		n += len(s.entries)
		s.mu.Unlock()
	}
	return n
}
