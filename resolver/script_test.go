package resolver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
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
	// silentAbout is a name that is left without an answer.
	silentAbout string
	panics      bool
	asked       []string
	ended       int // queries given up
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
	records, rcode, failure, after, hangs := s.records, s.rcode, s.err, s.after, s.hangs || s.silentAbout == q.name && q.name != ""
	panics := s.panics
	s.mu.Unlock()
	if panics {
		panic("scripted")
	}
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
	m.SetReply(q.query(hardening{}).msg)
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
	st.group = st.groupOf(st.servers, false, opts.Panics)
	return r
}

// serving runs the resolver's services until the test ends.
func serving(t *testing.T, r *Resolver) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	services := r.Services()
	done := make(chan error, len(services))
	for _, s := range services {
		go func() { done <- s.Serve(ctx) }()
	}
	t.Cleanup(func() {
		cancel()
		for range services {
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("Serve: %v", err)
			}
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
