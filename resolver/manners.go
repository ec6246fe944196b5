package resolver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// lapseLife is how long it is remembered that a server cannot do something.
	lapseLife = 30 * time.Minute
	// lapseStrikes is how often in a row a query must have been answered only
	// in its plain form before that is taken for the server's way.
	lapseStrikes = 2
	// plainAfter is how long a hardened query may stay unanswered before a
	// plain one follows it, if the time that is left allows so much.
	plainAfter = time.Second
)

// hardening is what a query has beyond what libc's have.
type hardening struct {
	edns  bool // an OPT record (RFC 6891)
	mixed bool // letters in random case (draft-vixie-dnsext-dns0x20)
}

// manners is what a server has shown that it cannot do. Servers that meet
// something unknown answer FORMERR as RFC 6891 §7 asks for, but also SERVFAIL,
// REFUSED, with nonsense, or not at all. The zero value trusts the server.
type manners struct {
	mu    sync.Mutex
	edns  lapse
	mixed lapse
}

// lapse is one thing that a server may not be able to do.
type lapse struct {
	strikes int
	until   time.Time // it cannot
}

func (l *lapse) strike(now time.Time) {
	l.strikes++
	if l.strikes >= lapseStrikes {
		l.strikes, l.until = 0, now.Add(lapseLife)
	}
}

// best is the hardening that the server is not known to fail at.
func (m *manners) best(wanted hardening) hardening {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	return hardening{
		edns:  wanted.edns && !now.Before(m.edns.until),
		mixed: wanted.mixed && !now.Before(m.mixed.until),
	}
}

// bore notes that the server answered a hardened query.
func (m *manners) bore(h hardening) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if h.edns {
		m.edns.strikes = 0
	}
	if h.mixed {
		m.mixed.strikes = 0
	}
}

// balked notes that the server answered a plain query, and not the hardened
// one before it. Of two causes EDNS is the likely one.
func (m *manners) balked(at hardening) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if at.edns {
		m.edns.strike(now)
	} else if at.mixed {
		m.mixed.strike(now)
	}
}

// folds notes that the server does not keep the case of letters.
func (m *manners) folds() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mixed.strike(time.Now())
}

// converse asks a question with as much hardening as is wanted and the server
// bears. What comes to nothing is asked again in the plain form that libc uses,
// so that no name fails here that does not fail there. ask sends one query and
// ends with its context.
func (m *manners) converse(ctx context.Context, q question, wanted hardening, ask func(context.Context, query) (*dns.Msg, error)) (*dns.Msg, error) {
	h := m.best(wanted)
	if h == (hardening{}) {
		return ask(ctx, q.query(h))
	}
	patient, cancel := context.WithTimeout(ctx, patience(ctx))
	reply, err := ask(patient, q.query(h))
	silent := patient.Err() != nil && ctx.Err() == nil
	cancel()
	switch {
	case err == nil && !refuses(reply):
		m.bore(h)
		return reply, nil
	case err == nil, silent, errors.Is(err, errMalformed):
	default:
		return nil, err
	}
	plain, plainErr := ask(ctx, q.query(hardening{}))
	switch {
	case plainErr == nil && !refuses(plain):
		m.balked(h)
		return plain, nil
	case plainErr == nil:
		return plain, nil
	case err == nil:
		return reply, nil // a refusal says more than what went wrong after it
	}
	return nil, plainErr
}

// refuses reports an answer that a server may give because it does not
// understand the query.
func refuses(reply *dns.Msg) bool {
	return reply.Rcode != dns.RcodeSuccess && reply.Rcode != dns.RcodeNameError
}

// patience is how long a hardened query may take of a question's time.
func patience(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return plainAfter
	}
	return min(plainAfter, time.Until(deadline)/3)
}

// within runs an attempt that leaves a part of the question's time for another.
func within(ctx context.Context, part int, attempt func(context.Context) (*dns.Msg, error)) (*dns.Msg, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return attempt(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Until(deadline)/time.Duration(part))
	defer cancel()
	reply, err := attempt(ctx)
	if err != nil {
		return nil, fmt.Errorf("over TCP: %w", err)
	}
	return reply, nil
}
