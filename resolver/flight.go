package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"cleversocks/metrics"
)

// linger is how long a question goes on that nobody waits for any more: who
// has found out which of a search list's names answers asks for that one's
// addresses at once.
const linger = 100 * time.Millisecond

// flight is one question under way at the servers, with those who wait for
// it: it ends soon after the last of them leaves, and not before. (singleflight
// would let it run on to its time-out: then names that nobody answers, asked for
// by a client that leaves at once and comes again, pile up.)
type flight struct {
	key    flightKey
	cancel context.CancelCauseFunc
	refs   int           // guarded by Resolver.mu
	done   chan struct{} // closed when addrs and err are set
	addrs  []netip.Addr
	err    error
}

// flightKey tells the questions of two configurations apart.
type flightKey struct {
	generation uint64
	q          question
}

// join waits with others for a question, or begins to ask it. Every join
// needs its leave.
func (r *Resolver) join(ctx context.Context, st *state, q question) (*flight, error) {
	key := flightKey{generation: st.generation, q: q}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, ErrClosed
	}
	if f := r.flights[key]; f != nil {
		f.refs++
		st.opts.Metrics.Cache.Of(metrics.CacheShared).Inc()
		return f, nil
	}
	// Not ended with the context of the one who came first: others may join.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	f := &flight{key: key, cancel: cancel, refs: 1, done: make(chan struct{}), err: errPanicked}
	r.flights[key] = f
	r.scope.Go(func() error { r.fly(ctx, st, f); return nil })
	return f, nil
}

// leave ends one interest in a flight; without any left, it is cancelled.
func (r *Resolver) leave(f *flight) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f.refs--
	if f.refs > 0 || f.ended() {
		return
	}
	time.AfterFunc(linger, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if f.refs == 0 {
			f.cancel(context.Canceled)
			r.forget(f)
		}
	})
}

// ended reports that the question has its answer.
func (f *flight) ended() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// forget takes a flight off the list, so that nobody else joins it; the lock
// is held.
func (r *Resolver) forget(f *flight) {
	if r.flights[f.key] == f {
		delete(r.flights, f.key)
	}
}

// fly asks the servers and keeps the answer.
func (r *Resolver) fly(ctx context.Context, st *state, f *flight) {
	defer close(f.done)
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.forget(f)
		f.cancel(nil)
	}()
	start := time.Now()
	asking, cancel := context.WithTimeout(ctx, st.opts.Timeout)
	a, err := st.group.ask(asking, f.key.q)
	cancel()
	if ctx.Err() == nil {
		st.opts.Metrics.Duration.Update(time.Since(start).Seconds())
		f.addrs, f.err = st.keep(f.key.q, a, err)
	} else {
		f.err = context.Cause(ctx)
	}
}

// errPanicked is the outcome of a question that came to no other.
var errPanicked = fmt.Errorf("%w: the look-up panicked", ErrServers)

// keep caches an answer or failure and returns what look-ups are told.
func (st *state) keep(q question, a answer, err error) ([]netip.Addr, error) {
	now := time.Now()
	e := entry{key: q, addrs: a.addrs, exists: a.exists, from: a.from, stored: now}
	conf := st.opts.Cache
	switch {
	case err != nil:
		e.err = fmt.Errorf("%s: %w", q.name, err)
		if old, _, ok := st.cache.get(q, now); ok && old.err == nil {
			st.cache.postpone(q, now.Add(staleRetry)) // the stale answer stays
			return nil, e.err
		}
		e.expires = now.Add(failureTTL)
		e.until = e.expires
	case len(a.addrs) == 0:
		e.err = fmt.Errorf("%s: %w", q.name, ErrNotFound)
		if a.exists {
			e.err = fmt.Errorf("%s: %w: %w", q.name, ErrNotFound, ErrNoAddress)
		}
		if old, _, ok := st.cache.get(q, now); a.weak && ok && old.err == nil {
			st.cache.postpone(q, now.Add(staleRetry)) // who gave it cannot be heard
			st.opts.Metrics.Cache.Of(metrics.CacheStale).Inc()
			return old.addrs, nil
		}
		if !a.hasTTL || a.weak {
			return nil, e.err
		}
		e.expires = now.Add(min(a.ttl, conf.NegativeTTL))
		e.until = e.expires
	default:
		ttl := max(a.ttl, conf.MinTTL)
		if conf.MaxTTL > 0 {
			ttl = min(ttl, conf.MaxTTL)
		}
		e.expires = now.Add(ttl)
		e.until = e.expires.Add(conf.ServeStale)
	}
	if st.cache.put(e) {
		st.opts.Metrics.Cache.Of(metrics.CacheEvicted).Inc()
	}
	return e.addrs, e.err
}

// kind is the metric label of a hit.
func (e entry) kind() string {
	switch {
	case e.err == nil:
		return metrics.CacheHit
	case errors.Is(e.err, ErrNotFound):
		return metrics.CacheNegative
	}
	return metrics.CacheFailure
}
