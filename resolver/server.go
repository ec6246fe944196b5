package resolver

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"

	"cleversocks/metrics"
)

// transport asks one server. An error is the server's or the network's; a
// reply answers the question that was asked, whatever it says.
type transport interface {
	// exchange asks a question and returns when the context ends at the
	// latest.
	exchange(ctx context.Context, q question) (*dns.Msg, error)
	// retire closes what is kept, once the queries under way are done.
	retire()
}

const (
	// missesToDown is how often in a row a server may be overtaken by
	// another one before it is asked last.
	missesToDown = 2
	probeFirst   = 2 * time.Second // to the first probe of a server that is down
	probeMost    = time.Minute
)

// server is a name server with what is known of its health.
type server struct {
	id        string // names it in errors and over reloads
	label     string // its transport, in metrics
	transport transport

	mu      sync.Mutex
	fails   int       // failures and failed probes in a row
	misses  int       // times in a row that another server was faster
	probeAt time.Time // zero: up
}

// isUp reports whether the server is asked before those that are not.
func (s *server) isUp() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.probeAt.IsZero()
}

// answered notes that the server works.
func (s *server) answered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails, s.misses, s.probeAt = 0, 0, time.Time{}
}

// failed notes that the server does not work, and when to look again.
func (s *server) failed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails++
	wait := min(probeFirst<<min(s.fails-1, 10), probeMost)
	s.probeAt = time.Now().Add(wait)
}

// missed notes that another server answered first, although it was asked
// later.
func (s *server) missed() {
	s.mu.Lock()
	s.misses++
	down := s.misses >= missesToDown && s.probeAt.IsZero()
	s.mu.Unlock()
	if down {
		s.failed()
	}
}

// probeDue reports whether a server that is down should be looked at, and
// puts the next time off.
func (s *server) probeDue(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.probeAt.IsZero() || now.Before(s.probeAt) {
		return false
	}
	s.probeAt = now.Add(probeMost)
	return true
}

// probe asks for the root's name servers: any answer will do.
func (s *server) probe(ctx context.Context) {
	if _, err := s.transport.exchange(ctx, question{name: "", qtype: dns.TypeNS}); err != nil {
		if !errors.Is(err, context.Canceled) {
			s.failed()
		}
		return
	}
	s.answered()
}

// ask puts a question to the server and reads the answer.
func (s *server) ask(ctx context.Context, q question, lookups metrics.CounterVec2) (answer, error) {
	reply, err := s.transport.exchange(ctx, q)
	if err != nil {
		lookups.Of(s.label, outcomeOf(err)).Inc()
		if !errors.Is(err, errRefused) && !isEnd(ctx) {
			s.failed()
		}
		return answer{}, err
	}
	a, err := readAnswer(reply, q)
	switch {
	case err == nil && len(a.addrs) == 0:
		lookups.Of(s.label, metrics.DNSNotFound).Inc()
	default:
		lookups.Of(s.label, outcomeOf(err)).Inc()
	}
	s.answered()
	return a, err
}

// isEnd reports that a query was given up, which says nothing of the server.
// Its time running out does.
func isEnd(ctx context.Context) bool { return errors.Is(ctx.Err(), context.Canceled) }

// plan is the order in which servers are asked: those that are up first, from
// an offset among them when queries rotate, each as often as rounds says.
func plan(servers []*server, rounds int, offset uint32) []*server {
	var up, down []*server
	for _, s := range servers {
		if s.isUp() {
			up = append(up, s)
		} else {
			down = append(down, s)
		}
	}
	if len(up) > 1 {
		at := int(offset) % len(up)
		up = slices.Concat(up[at:], up[:at])
	}
	order := slices.Concat(up, down)
	return slices.Repeat(order, max(rounds, 1))
}
