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
	probeFirst = 2 * time.Second // to the second probe of a server that is dead
	probeMost  = time.Minute
	// probeWait is how long a server may take to answer a probe.
	probeWait = 3 * time.Second
)

// server is a name server with what is known of its health. A query that it
// leaves unanswered says little: the name may be slow, whoever is asked. So it
// raises a doubt, and a probe tells whether the server is dead for all names.
// Only then are others asked first: a name of the inner network must not go to
// a public server, and be denied by it, because of one slow name.
type server struct {
	id        string // names it in errors and over reloads
	label     string // its transport, in metrics
	transport transport

	mu      sync.Mutex
	doubted bool
	dead    bool
	fails   int       // probes in a row that failed
	probeAt time.Time // of a server that is dead
}

// isUp reports whether the server is asked before those that are dead.
func (s *server) isUp() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.dead
}

// answered notes that the server works.
func (s *server) answered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubted, s.dead, s.fails = false, false, 0
}

// unanswered notes a query that the server left without an answer.
func (s *server) unanswered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubted = true
}

// failed notes a probe without an answer, and when to look again.
func (s *server) failed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubted, s.dead = false, true
	s.probeAt = time.Now().Add(min(probeFirst<<min(s.fails, 10), probeMost))
	s.fails++
}

// probeDue reports whether a server in doubt, or a dead one, should be looked
// at, and puts the next time off.
func (s *server) probeDue(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.dead && now.Before(s.probeAt), !s.dead && !s.doubted:
		return false
	}
	s.doubted, s.probeAt = false, now.Add(probeMost)
	return true
}

// probe asks for the root's name servers: any answer will do.
func (s *server) probe(ctx context.Context) {
	probing, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	_, err := s.transport.exchange(probing, question{name: "", qtype: dns.TypeNS})
	switch {
	case err == nil, errors.Is(err, errRefused), errors.Is(err, errMalformed):
		s.answered()
	case ctx.Err() == nil: // else the daemon ends
		s.failed()
	}
}

// ask puts a question to the server and reads the answer.
func (s *server) ask(ctx context.Context, q question, lookups metrics.CounterVec2) (answer, error) {
	reply, err := s.transport.exchange(ctx, q)
	if err != nil {
		lookups.Of(s.label, outcomeOf(err)).Inc()
		if !errors.Is(err, errRefused) && !isEnd(ctx) {
			s.unanswered()
		}
		return answer{}, err
	}
	a, err := readAnswer(reply, q)
	a.from = s.id
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

// plan is the order in which servers are asked: those that live first, from an
// offset among them when queries rotate, each as often as rounds says.
func plan(servers []*server, rounds int, offset uint32) []*server {
	var up, dead []*server
	for _, s := range servers {
		if s.isUp() {
			up = append(up, s)
		} else {
			dead = append(dead, s)
		}
	}
	if len(up) > 1 {
		at := offset % uint32(len(up))
		up = slices.Concat(up[at:], up[:at])
	}
	order := slices.Concat(up, dead)
	return slices.Repeat(order, max(rounds, 1))
}
