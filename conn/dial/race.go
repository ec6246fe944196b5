package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"cleversocks/resolver"
)

// The delays that RFC 8305 §8 recommends.
const (
	resolutionDelay = 50 * time.Millisecond  // for AAAA, when A came first
	attemptDelay    = 250 * time.Millisecond // from one attempt to the next
)

// race is one connection's Happy Eyeballs. It is an actor: one goroutine
// selects over answers, results and one timer, and owns all that follows.
type race struct {
	d   *Dialer
	req Request

	answers chan answer
	results chan result
	timer   *time.Timer
	tasks   sync.WaitGroup // look-ups and attempts

	asked   int  // look-ups without an answer yet
	ready   bool // an attempt may start now
	started bool // the first attempt was allowed
	running int  // attempts without a result yet
	// exhausted: descriptors ran out, so that no more attempts are made.
	exhausted bool
	known     map[netip.Addr]bool
	pending   []netip.Addr // allowed, in order, not tried yet
	won       netip.Addr   // by the history
	ran       attempts
	err       error // the most telling so far
}

// answer is what one family's look-up brought.
type answer struct {
	family resolver.Family
	addrs  []netip.Addr
	err    error
}

// result is how one attempt ended.
type result struct {
	addr netip.Addr
	conn *net.TCPConn
	err  error
}

// dialName resolves a name and races its addresses.
func (d *Dialer) dialName(ctx context.Context, req Request) (*net.TCPConn, attempts, error) {
	if d.opts.Lookup == nil {
		return nil, attempts{}, fmt.Errorf("%w: names are not resolved here", ErrNoUsableAddress)
	}
	var cancel context.CancelFunc
	if d.opts.ConnectTimeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, d.opts.ConnectTimeout)
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	r := &race{
		d: d, req: req,
		answers: make(chan answer),
		results: make(chan result),
		timer:   time.NewTimer(time.Hour), // set where it is needed
		known:   make(map[netip.Addr]bool),
		won:     d.opts.History.last(req.Dest),
	}
	r.timer.Stop()
	// Losers are cancelled, closed by their own goroutines, and waited for.
	defer r.tasks.Wait()
	defer cancel()
	defer r.timer.Stop()
	for _, family := range []resolver.Family{resolver.IPv6, resolver.IPv4} {
		if d.opts.Family.allows(family) && req.Egress.carries(family) {
			r.asked++
			r.tasks.Go(func() { r.lookup(ctx, family) })
		}
	}
	if r.asked == 0 {
		r.err = fmt.Errorf("%w: no source address for the families in use", ErrNoUsableAddress)
	}
	c, err := r.run(ctx)
	return c, r.ran, err
}

// lookup asks for the addresses of one family.
func (r *race) lookup(ctx context.Context, family resolver.Family) {
	addrs, err := r.d.opts.Lookup(ctx, r.req.Dest.Name, family)
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
		if r.running == 0 && (r.exhausted || (r.asked == 0 && len(r.pending) == 0)) {
			return nil, telling(ctx, r.err)
		}
		select {
		case a := <-r.answers:
			r.take(a)
		case <-r.timer.C:
			r.started, r.ready = true, true
		case res := <-r.results:
			r.running--
			if res.err == nil {
				r.d.opts.History.record(r.req.Dest, res.addr)
				r.ran.last = res.addr
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
	return r.asked == 0 && r.running == 0 && len(r.pending) == 1
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
	if a.err != nil {
		r.err = worse(r.err, a.err)
	}
	fresh := false
	for _, addr := range a.addrs {
		addr = addr.Unmap().WithZone("")
		if r.known[addr] {
			continue
		}
		r.known[addr] = true
		if err := r.allowed(addr); err != nil {
			r.err = worse(r.err, err)
			continue
		}
		r.pending = append(r.pending, addr)
		fresh = true
	}
	if fresh {
		r.sort()
	}
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

// allowed asks the settings and the request's judge for an address.
func (r *race) allowed(addr netip.Addr) error {
	if err := r.d.usable(addr, r.req.Egress); err != nil {
		return err
	}
	if r.req.Judge != nil {
		if err := r.req.Judge(addr); err != nil {
			return &DeniedError{Addr: addr, Err: err}
		}
	}
	return nil
}

// sort orders what was not tried yet.
func (r *race) sort() {
	var after resolver.Family
	if r.ran.last.IsValid() {
		after = resolver.FamilyOf(r.ran.last)
	}
	source := func(dst netip.Addr) netip.Addr { return r.d.source(dst, r.req.Egress) }
	if eg := r.req.Egress; len(eg.Addresses) > 0 {
		source = func(dst netip.Addr) netip.Addr {
			src, _ := eg.pick(resolver.FamilyOf(dst))
			return src
		}
	}
	r.pending = order(r.pending, source, r.won, after)
}

// attempt starts to connect to the next address. The one after it may start
// attemptDelay later, or as soon as an attempt fails (RFC 8305 §5).
func (r *race) attempt(ctx context.Context) {
	addr := r.pending[0]
	r.pending = slices.Delete(r.pending, 0, 1)
	r.ran.add(addr)
	r.running++
	r.ready = false
	r.timer.Reset(attemptDelay)
	r.tasks.Go(func() {
		c, err := r.d.connect(ctx, netip.AddrPortFrom(addr, r.req.Dest.Port), r.req.Egress)
		select {
		case r.results <- result{addr: addr, conn: c, err: err}:
		case <-ctx.Done():
			if err == nil {
				_ = c.Close()
			}
		}
	})
}

// fail notes a failed attempt and lets the next one start. When descriptors
// ran out, it would only fail the same.
func (r *race) fail(ctx context.Context, res result) {
	r.d.opts.History.forget(r.req.Dest, res.addr)
	r.err = worse(r.err, telling(ctx, res.err))
	r.ready = true
	r.exhausted = r.exhausted || isExhausted(res.err)
}
