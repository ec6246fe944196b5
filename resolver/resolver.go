// Package resolver turns names into addresses with transports of its own, so
// that lifetimes are known, answers are checked and every wait can be ended.
//
//	res, err := resolver.New(ctx, resolver.Options{Servers: []string{"system"}, Metrics: m.DNS})
//	for _, s := range res.Services() { supervisor.Add(s) } // eviction, refresh, probes, the system's files
//	addrs, err := res.Lookup(ctx, "example.org", resolver.IPv6)
//	defer res.Close()     // after the tree has ended
//
// A look-up goes through literals, the hosts file, localhost, the cache, and
// then the servers, one query in flight for each name and family.
package resolver

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cleversocks/conn/task"
	"cleversocks/metrics"
)

const (
	defaultTimeout = 5 * time.Second
	defaultSockets = 128
	// prefetchHits is how often a name was asked for before it counts as hot.
	prefetchHits = 3
	// refreshQueue bounds the names that wait to be refreshed.
	refreshQueue = 256
	// staleWait is how long a look-up waits for the servers when a stale
	// answer is at hand (RFC 8767 §5, client response timer).
	staleWait = 1800 * time.Millisecond
	// staleRetry is how long the servers are left alone after they failed
	// while a stale answer was at hand (RFC 8767 §5, failure recheck timer).
	staleRetry = 30 * time.Second
	// failureTTL is how long a failure is remembered (RFC 9520 §3.2).
	failureTTL = time.Second
)

// Options configure a Resolver.
type Options struct {
	// Servers are asked in order: "system" (resolv.conf's),
	// "udp://ADDRESS[:PORT]", "tcp://ADDRESS[:PORT]",
	// "tls://ADDRESS[:PORT]#NAME" with the name in the certificate,
	// "tls://NAME[:PORT]#ADDRESS,..." and
	// "https://NAME[:PORT]/PATH#ADDRESS,..." with the server's own addresses;
	// without those, resolv.conf's servers are asked for them. Empty: "system".
	Servers []string
	// Timeout bounds one question, over all servers and retries; 0: 5 s.
	Timeout time.Duration
	Cache   CacheOptions
	// ResolvConf and Hosts are the system's files; empty: those in /etc.
	ResolvConf, Hosts string
	// RootCAs verify servers' certificates; nil: the system's.
	RootCAs *x509.CertPool
	// Logger hears of changes in the system's files; nil: nobody.
	Logger *slog.Logger
	// Metrics count queries and the cache's use; zero: nobody counts.
	Metrics metrics.DNS
	// Sockets is how many UDP sockets queries may take before they share them;
	// less than 1: defaultSockets. It and Panics are those of New, for good.
	Sockets int
	// Panics hears of panics, each of which fails one query; nil: nobody does.
	Panics *task.Reporter
}

// CacheOptions bound the cache.
type CacheOptions struct {
	Size           int           // answers kept; less than 1: one for each shard
	MinTTL, MaxTTL time.Duration // what answers' TTLs are held between; MaxTTL 0: no upper bound
	NegativeTTL    time.Duration // the most for a negative answer (RFC 2308 §7.1)
	ServeStale     time.Duration // past its end, when no server answers (RFC 8767)
	Prefetch       bool          // refresh hot names before their end
}

// Resolver resolves names. It is safe for use by many goroutines.
type Resolver struct {
	state   atomic.Pointer[state]
	refresh chan question

	config sync.Mutex // held while a new state is made
	looked [2]stamp   // of the system's files at the last look; guarded by config

	mu      sync.Mutex
	flights map[flightKey]*flight
	closed  bool

	// scope is that of the questions under way and the sockets' readers. They
	// end by themselves; its context ends with nobody.
	scope   *task.Scope
	panics  *task.Reporter
	sockets *udpSockets
}

// New makes a Resolver. The error names the server entry or file that is
// wrong. Close frees it; ctx is for the log alone.
func New(ctx context.Context, opts Options) (*Resolver, error) {
	scope, _ := task.New(context.WithoutCancel(ctx), opts.Panics, "dns")
	opts = withDefaults(opts)
	r := &Resolver{
		refresh: make(chan question, refreshQueue),
		flights: make(map[flightKey]*flight),
		scope:   scope,
		panics:  opts.Panics,
		sockets: &udpSockets{most: opts.Sockets, dropped: opts.Metrics.Dropped, shared: opts.Metrics.Limits.Of(metrics.LimitDNSSockets), scope: scope},
	}
	if err := r.Reconfigure(opts); err != nil {
		return nil, err
	}
	return r, nil
}

// Reconfigure replaces the options. Look-ups under way go on as they began;
// the cache is kept unless the servers or its size changed. After an error
// the old options stay in force.
func (r *Resolver) Reconfigure(opts Options) error {
	change, err := r.Prepare(opts)
	if err != nil {
		return err
	}
	change.Commit()
	return nil
}

// Change is new options that have been verified, system files included. One
// of Commit and Rollback must follow soon: no other change can be prepared
// until then.
type Change struct {
	resolver *Resolver
	next     *state
}

// Prepare verifies new options, so that they can be put in force together
// with other parts of a configuration, or not at all.
func (r *Resolver) Prepare(opts Options) (*Change, error) {
	r.config.Lock()
	next, err := r.build(opts)
	if err != nil {
		r.config.Unlock()
		return nil, err
	}
	return &Change{resolver: r, next: next}, nil
}

// Commit puts the options in force.
func (c *Change) Commit() {
	c.resolver.install(c.next)
	c.resolver.config.Unlock()
}

// Rollback leaves everything as it was. Nothing was opened yet.
func (c *Change) Rollback() { c.resolver.config.Unlock() }

// Close ends the look-ups under way and the servers' connections and waits
// for both. Call it after Serve has ended.
func (r *Resolver) Close() {
	r.mu.Lock()
	r.closed = true
	for _, f := range r.flights {
		f.cancel(ErrClosed)
	}
	r.mu.Unlock()
	r.config.Lock()
	st := r.state.Load()
	for _, s := range slices.Concat(st.servers, st.bootstrap.servers) {
		r.retire(s)
	}
	r.config.Unlock()
	_ = r.scope.Wait() // panics were reported
}

// retire closes a server's connections, which may wait for one being dialed.
func (r *Resolver) retire(s *server) {
	r.scope.Go(func() error { s.transport.retire(); return nil })
}

// Lookup is the addresses of one family that a name has, at least one. The
// name is in wire.NormalizeName's form, or an IP literal; it is asked for as it
// is, and what a search list makes of it is for the caller to try (see Search).
// The error wraps ErrNotFound, with ErrNoAddress or without, ErrTimeout,
// ErrServers, ErrClosed or the context's cause.
func (r *Resolver) Lookup(ctx context.Context, name string, family Family) ([]netip.Addr, error) {
	st := r.state.Load()
	if addrs, known := st.local(name); known {
		return st.ofHosts(name, addrs, family)
	}
	return r.resolve(ctx, st, question{name: name, qtype: family.qtype()})
}

// Search is the complete names that a name without its final dot stands for,
// in the order in which resolv.conf(5) tries them. It is nil when the name
// stands for itself alone: no search list applies, or the name is known here.
//
// The list is not gone through by Lookup, because rules must judge each of its
// names before a server hears of it: a client that asks for "wiki" would else
// get at "wiki.corp.example" past a rule that denies it.
func (r *Resolver) Search(name string) []string {
	st := r.state.Load()
	if !st.search || len(st.conf.search) == 0 {
		return nil
	}
	if _, known := st.local(name); known {
		return nil
	}
	return st.conf.candidates(name)
}

// orElse keeps a failure that is worse than not finding.
func orElse(failure, err error) error {
	if failure != nil && !errors.Is(failure, ErrNotFound) {
		return failure
	}
	return err
}

// local is what is known of a name without asking a server: literals, the
// hosts file, localhost, and names that DNS must not be asked for. As with libc,
// a name in the hosts file has the families that it has there.
func (st *state) local(name string) ([]netip.Addr, bool) {
	if mayBeLiteral(name) {
		if addr, err := netip.ParseAddr(name); err == nil {
			return []netip.Addr{addr.Unmap()}, true
		}
	}
	if addrs, ok := st.hosts[name]; ok {
		return addrs, true
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	switch last {
	case "localhost": // RFC 6761 §6.3: always loopback, never asked for
		if addrs, ok := st.hosts[last]; ok {
			return addrs, true // with the families that this host has
		}
		return []netip.Addr{netip.IPv6Loopback(), netip.AddrFrom4([4]byte{127, 0, 0, 1})}, true
	case "invalid", "onion": // RFC 6761 §6.4, RFC 7686 §2
		return nil, true
	}
	return nil, false
}

// mayBeLiteral spares most names to be parsed, which makes an error of them.
func mayBeLiteral(name string) bool {
	return name != "" && name[len(name)-1] <= '9' || strings.IndexByte(name, ':') >= 0
}

// ofHosts is ofFamily for a name that local knows, and counts it if the hosts file
// does.
func (st *state) ofHosts(name string, addrs []netip.Addr, family Family) ([]netip.Addr, error) {
	if _, listed := st.hosts[name]; listed {
		st.opts.Metrics.Lookups.Of(transportHosts, metrics.DNSOK).Inc()
	}
	return ofFamily(name, addrs, family)
}

// ofFamily is those of a name's addresses that are of a family.
func ofFamily(name string, addrs []netip.Addr, family Family) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, a := range addrs {
		if FamilyOf(a) == family {
			out = append(out, a)
		}
	}
	switch {
	case len(addrs) == 0:
		return nil, fmt.Errorf("%s: %w", name, ErrNotFound)
	case len(out) == 0:
		return nil, fmt.Errorf("%s: %w: %w", name, ErrNotFound, ErrNoAddress)
	}
	return out, nil
}

// resolve answers one question from the cache or the servers.
func (r *Resolver) resolve(ctx context.Context, st *state, q question) ([]netip.Addr, error) {
	count := st.opts.Metrics.Cache
	e, use, stale := r.remembered(st, q, time.Now())
	if use != "" {
		count.Of(use).Inc()
		return slices.Clone(e.addrs), e.err
	}
	count.Of(metrics.CacheMiss).Inc()
	f, err := r.join(ctx, st, q)
	if err != nil {
		return nil, err
	}
	defer r.leave(f)
	var late <-chan time.Time
	if stale {
		timer := time.NewTimer(staleWait)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-f.done:
		if stale && f.err != nil && !errors.Is(f.err, ErrNotFound) {
			count.Of(metrics.CacheStale).Inc()
			return slices.Clone(e.addrs), nil
		}
		return slices.Clone(f.addrs), f.err
	case <-late:
		// The owner goes on asking; neither this look-up nor, for a while,
		// those after it wait for servers that are silent.
		st.cache.postpone(q, time.Now().Add(staleRetry))
		r.enqueue(st, q)
		count.Of(metrics.CacheStale).Inc()
		return slices.Clone(e.addrs), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// enqueue asks the owner service to refresh a name.
func (r *Resolver) enqueue(st *state, q question) {
	select {
	case r.refresh <- q:
		st.opts.Metrics.Cache.Of(metrics.CachePrefetch).Inc()
	default:
		st.cache.refreshEnded(q)
		st.opts.Metrics.Cache.Of(metrics.CachePrefetchDropped).Inc()
	}
}
