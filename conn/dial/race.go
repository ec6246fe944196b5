package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"cleversocks/conn/task"
	"cleversocks/resolver"
)

// The delays that RFC 8305 §8 recommends.
const (
	resolutionDelay = 50 * time.Millisecond  // for AAAA, when A came first
	attemptDelay    = 250 * time.Millisecond // from one attempt to the next
)

const (
	// maxAttempts bounds the attempts of one race that run at a time: a name
	// may have dozens of addresses, none of which answers.
	maxAttempts = 6
	// attemptPatience is how long an attempt keeps its place when others are
	// waiting for one: the time of two SYNs.
	attemptPatience = 2 * time.Second
)

// race is one connection's Happy Eyeballs. It is an actor: one goroutine
// selects over answers, results and one timer, and owns all that follows.
type race struct {
	field

	answers chan answer
	results chan result
	timer   *time.Timer
	over    <-chan struct{} // nobody listens to answers and results any more
	scope   *task.Scope     // look-ups and attempts

	asked   int        // look-ups without an answer yet
	ready   bool       // an attempt may start now
	started bool       // the first attempt was allowed
	running []*attempt // without a result yet, the oldest first
	// exhausted: descriptors ran out, so that no more attempts are made.
	exhausted bool
}

// answer is what one family's look-up brought.
type answer struct {
	family resolver.Family
	addrs  []netip.Addr
	err    error
}

// attempt is a connection that is being opened.
type attempt struct {
	addr    netip.Addr
	started time.Time
	spare   bool // it holds one of Options.Spares
	cancel  context.CancelFunc
	givenUp bool // for the next address's sake
}

// result is how one attempt ended.
type result struct {
	of   *attempt
	conn *net.TCPConn
	err  error
}

// errGivenUp is the failure of an attempt that made place for another one.
var errGivenUp = fmt.Errorf("%w: given up for another address", context.DeadlineExceeded)

// race connects to the addresses of a name that are left, or resolves it first if
// there are none.
func (p *Plan) race(ctx context.Context) (*net.TCPConn, attempts, error) {
	d := p.d
	if d.opts.Lookup == nil {
		return nil, attempts{}, fmt.Errorf("%w: names are not resolved here", ErrNoUsableAddress)
	}
	var cancel context.CancelFunc
	if at := p.deadline(); !at.IsZero() {
		ctx, cancel = context.WithDeadline(ctx, at)
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	scope, ctx := task.New(ctx, d.opts.Panics, "dial")
	r := &race{
		field: d.field(&p.req),
		scope: scope, over: ctx.Done(),
		answers: make(chan answer),
		results: make(chan result),
		timer:   time.NewTimer(time.Hour), // set where it is needed
	}
	r.timer.Stop()
	// Losers are cancelled, closed by their own goroutines, and waited for.
	defer func() { _ = scope.Wait() }() // each has told how it ended
	defer cancel()
	defer r.timer.Stop()
	if r.ran, r.err = p.ran, p.err; len(p.addrs) > 0 {
		r.pending, r.started, r.ready = p.addrs, true, true
	} else {
		r.ask(ctx)
	}
	c, err := r.run(ctx)
	return c, r.ran, err
}

// ask begins a look-up for each family in use.
func (r *race) ask(ctx context.Context) {
	for _, family := range r.d.families(r.req.Egress) {
		r.asked++
		r.scope.Go(func() error { r.lookup(ctx, family); return nil })
	}
	if r.asked == 0 {
		r.err = fmt.Errorf("%w: no source address for the families in use", ErrNoUsableAddress)
	}
}

// lookup asks for the addresses of one family.
func (r *race) lookup(ctx context.Context, family resolver.Family) {
	addrs, err := r.d.lookup(ctx, r.req.Dest.Name, family)
	select {
	case r.answers <- answer{family: family, addrs: addrs, err: err}:
	case <-ctx.Done():
	}
}

// run is the race from the first answer to the winner or the last failure.
func (r *race) run(ctx context.Context) (*net.TCPConn, error) {
	for {
		if r.ready && !r.exhausted && len(r.pending) > 0 {
			if r.isLast() {
				return r.attemptHere(ctx)
			}
			r.attempt(ctx)
		}
		if len(r.running) == 0 && (r.exhausted || (r.asked == 0 && len(r.pending) == 0)) {
			return nil, telling(ctx, r.err)
		}
		select {
		case a := <-r.answers:
			r.take(a)
		case <-r.timer.C:
			r.started, r.ready = true, true
		case res := <-r.results:
			r.running = slices.DeleteFunc(r.running, func(a *attempt) bool { return a == res.of })
			if res.err == nil {
				r.d.opts.History.record(r.req.Dest, res.of.addr)
				r.ran.last = res.of.addr
				return res.conn, nil
			}
			r.fail(ctx, res)
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil, cancelled(ctx)
			}
			return nil, worse(context.DeadlineExceeded, r.err)
		}
	}
}

// isLast reports that one address is left and nothing else is under way: it
// needs no race.
func (r *race) isLast() bool {
	return r.asked == 0 && len(r.running) == 0 && len(r.pending) == 1
}

// attemptHere connects to the only address left, in this goroutine.
func (r *race) attemptHere(ctx context.Context) (*net.TCPConn, error) {
	addr := r.pending[0]
	r.ran.add(addr)
	c, err := r.d.connect(ctx, netip.AddrPortFrom(addr, r.req.Dest.Port), r.req.Egress)
	if err != nil {
		r.d.opts.History.forget(r.req.Dest, addr)
		return nil, telling(ctx, worse(r.err, err))
	}
	r.d.opts.History.record(r.req.Dest, addr)
	return c, nil
}

// take adds an answer's addresses and decides whether the race may start.
func (r *race) take(a answer) {
	r.asked--
	r.add(a.addrs, a.err)
	switch {
	case r.started:
	case len(r.pending) == 0: // nothing to start with
	case r.asked == 0, slices.Contains(r.pending, r.won):
		r.started, r.ready = true, true
	case a.family == resolver.IPv6 && !r.won.Is4():
		r.started, r.ready = true, true
	default:
		// RFC 8305 §3: A came first; AAAA may take a moment longer. Or the
		// address that won before is still to be named.
		r.timer.Reset(resolutionDelay)
	}
}

// attempt starts to connect to the next address. The one after it may start
// attemptDelay later, or as soon as an attempt fails (RFC 8305 §5). The first one
// may always run: its descriptor is the connection's own. Others need a place
// among six, and one of the spare descriptors that all races share; without, the
// oldest attempt has to end first.
func (r *race) attempt(ctx context.Context) {
	r.ready = false
	r.timer.Reset(attemptDelay)
	a := &attempt{addr: r.pending[0], started: time.Now()}
	if len(r.running) > 0 {
		if len(r.running) >= maxAttempts || !r.d.opts.Spares.take(r.req.Client) {
			r.makePlace()
			return
		}
		a.spare = true
	}
	r.pending = slices.Delete(r.pending, 0, 1)
	r.ran.add(a.addr)
	ctx, a.cancel = context.WithCancel(ctx)
	r.running = append(r.running, a)
	r.scope.Go(func() error { r.connect(ctx, a); return nil })
}

// makePlace ends the oldest attempt, once it has had its time.
func (r *race) makePlace() {
	if oldest := r.running[0]; !oldest.givenUp && time.Since(oldest.started) >= attemptPatience {
		oldest.givenUp = true
		oldest.cancel()
	}
}

// connect makes one attempt and tells how it ended. A panic fails it alone.
func (r *race) connect(ctx context.Context, a *attempt) {
	defer a.cancel()
	res := result{of: a}
	res.err = r.d.opts.Panics.Contain(ctx, "dial", func() (err error) {
		res.conn, err = r.d.connect(ctx, netip.AddrPortFrom(a.addr, r.req.Dest.Port), r.req.Egress)
		return err
	})
	if a.spare {
		r.d.opts.Spares.give(r.req.Client)
	}
	select {
	case r.results <- res:
	case <-r.over:
		if res.err == nil {
			_ = res.conn.Close()
		}
	}
}

// fail notes a failed attempt and lets the next one start. When descriptors
// ran out, it would only fail the same.
func (r *race) fail(ctx context.Context, res result) {
	r.d.opts.History.forget(r.req.Dest, res.of.addr)
	if res.of.givenUp {
		res.err = errGivenUp
	}
	r.err = worse(r.err, telling(ctx, res.err))
	r.ready = true
	r.exhausted = r.exhausted || isExhausted(res.err)
}
