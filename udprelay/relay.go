// Package udprelay serves UDP ASSOCIATE (RFC 1928 §7). One Relay serves all
// connections; each association is one call that lasts as long as it does:
//
//	relay := udprelay.New(udprelay.RelayOptions{Metrics: registry, Logger: log, Filter: udprelay.FilterAddress})
//	...
//	result := relay.Serve(ctx, udprelay.Request{Control: conn, Client: client, Decide: ..., Resolve: ..., Reply: ...})
//
// An association is a socket for its client, and for each of the client's
// ports one per family towards its destinations, all unconnected, so that
// every destination sees the same source. Each socket has a goroutine that
// moves datagrams in batches.
package udprelay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"

	"cleversocks/aclsvc/ratelimit"
	"cleversocks/conn/cause"
	"cleversocks/conn/netaddr"
	"cleversocks/conn/task"
	"cleversocks/conn/wire"
	"cleversocks/metrics"
)

// Filter says whose datagrams come back to a client.
type Filter uint8

// The filters of udp.filter.
const (
	FilterAddress  Filter = iota // hosts that were sent to
	FilterEndpoint               // host and port that were sent to
	FilterNone                   // anyone's that the rules allow
)

// RelayOptions is what all associations share. Zero values are the defaults.
type RelayOptions struct {
	Disabled bool              // refuse: reply 07
	Ports    netaddr.PortRange // for the sockets that clients send to
	Filter   Filter
	// FirstPortOnly makes the client port that speaks first the only one.
	// Otherwise each port of the client's address is served, and has its own
	// sockets towards destinations.
	FirstPortOnly bool
	// IdleTimeout is how long a client port keeps its sockets towards
	// destinations without a datagram either way. 0: 2 minutes.
	IdleTimeout time.Duration
	// MaxPerUser bounds a user's associations, in all processes; clients without a
	// name count by address, IPv6 by /64. 0: no bound.
	MaxPerUser int
	// MaxAssociations bounds the server's, in all its processes. 0: no bound but
	// MaxHere.
	MaxAssociations int
	// MaxHere bounds this process's. 0: no bound but the descriptors.
	MaxHere int
	// MaxExtraSockets bounds the sockets of all client ports but the first of
	// each association. 0: no bound but the descriptors.
	MaxExtraSockets int

	Metrics *metrics.Registry // nil: a private one
	Seats   *ratelimit.Seats  // where associations count; nil: of this Relay alone
	Logger  *slog.Logger      // nil: nothing is logged
	Panics  *task.Reporter    // nil: they are contained, and nobody hears of them
}

const (
	// serverLookups bounds the look-ups of all associations that are under
	// way; those behind wait in the order that they came in.
	serverLookups = 256
	// seatLookups is a user's, or source's, share of them: the rest is
	// overload, so that names that nobody answers for leave room for others'.
	seatLookups = 16
)

// Relay serves associations. Its methods may be called at any time.
type Relay struct {
	options atomic.Pointer[RelayOptions]
	pool    *pool
	counts  counts
	metrics *metrics.Registry
	log     *slog.Logger
	panics  *task.Reporter
	// fragments is how many bytes unfinished fragment sequences may still take.
	fragments atomic.Int64
	// extra is how many sockets there are beyond the first ports'.
	extra atomic.Int64

	seats   *ratelimit.Seats // associations
	lookups ratelimit.Seats  // under way or waiting for their turn
	turns   *semaphore.Weighted

	mu  sync.Mutex
	own map[netip.AddrPort]struct{} // our sockets towards clients: never a destination
}

// New makes a Relay. Metrics, Seats, Logger and Panics are fixed here, the rest of
// the options can be changed by Configure.
func New(o RelayOptions) *Relay {
	if o.Metrics == nil {
		o.Metrics = metrics.New()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Seats == nil {
		o.Seats = new(ratelimit.Seats)
	}
	r := &Relay{
		seats:   o.Seats,
		pool:    newPool(2 + 2*runtime.GOMAXPROCS(0)),
		counts:  newCounts(o.Metrics),
		metrics: o.Metrics,
		log:     o.Logger,
		panics:  o.Panics,
		turns:   semaphore.NewWeighted(serverLookups),
		own:     make(map[netip.AddrPort]struct{}),
	}
	r.fragments.Store(fragmentMemory)
	r.Configure(o)
	return r
}

// Configure applies new options to associations that start from now on; those
// that exist keep what they began with.
func (r *Relay) Configure(o RelayOptions) {
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = 2 * time.Minute
	}
	r.options.Store(&o)
}

// Disabled reports whether associations are refused now.
func (r *Relay) Disabled() bool { return r.options.Load().Disabled }

// IdleTimeout is RelayOptions.IdleTimeout of now.
func (r *Relay) IdleTimeout() time.Duration { return r.options.Load().IdleTimeout }

// errRefused is why an association did not come about.
type errRefused struct {
	reason string // metrics.UDPRefused*
	code   wire.ReplyCode
}

func (e errRefused) Error() string { return "association refused: " + e.reason }

// Serve runs one association: it opens the relay socket, replies, and moves
// datagrams until the control connection ends, ctx ends or something breaks.
// Everything it opened is closed, and every goroutine it started has ended,
// when it returns. Control stays the caller's, who closes it at once: a client
// learns by nothing else that its association is over.
func (r *Relay) Serve(ctx context.Context, s Request) Result {
	o := r.options.Load()
	a, err := r.open(ctx, s, o)
	if err != nil {
		code := wire.ReplyGeneralFailure
		if refused, ok := errors.AsType[errRefused](err); ok {
			code = refused.code
			r.metrics.UDP.Refused.Of(refused.reason).Inc()
		}
		why := cause.Error
		if code == wire.ReplyNotAllowed {
			why = cause.Denied
		}
		return Result{Reply: code, Cause: why, Err: errors.Join(err, s.Reply(code, netip.AddrPort{}))}
	}
	defer r.leave(a)
	return a.serve()
}

// open seats the request and gives it its sockets.
func (r *Relay) open(ctx context.Context, s Request, o *RelayOptions) (*association, error) {
	if o.Disabled {
		return nil, errRefused{metrics.UDPRefusedDisabled, wire.ReplyCommandNotSupported}
	}
	a := newAssociation(r, s, *o)
	switch r.seats.Take(a.seat, ratelimit.Bounds{PerSeat: o.MaxPerUser, Total: o.MaxAssociations, Here: o.MaxHere}) {
	case ratelimit.Full:
		return nil, errRefused{metrics.UDPRefusedServerLimit, wire.ReplyGeneralFailure}
	case ratelimit.TooMany:
		return nil, errRefused{metrics.UDPRefusedUserLimit, wire.ReplyNotAllowed}
	default:
	}
	if err := a.listen(ctx); err != nil {
		r.seats.Return(a.seat)
		return nil, fmt.Errorf("%w: %w", errRefused{metrics.UDPRefusedSocket, wire.ReplyGeneralFailure}, err)
	}
	if s.Upstream != nil {
		first, err := a.associate(ctx)
		if err != nil {
			a.relay.close()
			r.seats.Return(a.seat)
			code := wire.ReplyGeneralFailure
			if s.ReplyCode != nil {
				code = s.ReplyCode(err)
			}
			return nil, fmt.Errorf("%w: %w", errRefused{metrics.UDPRefusedUpstream, code}, err)
		}
		a.upstream = first
	}
	r.mu.Lock()
	r.own[a.local] = struct{}{}
	r.mu.Unlock()
	r.metrics.UDP.Associations.Add(1)
	a.start(ctx)
	return a, nil
}

// leave gives back what open took.
func (r *Relay) leave(a *association) {
	r.metrics.UDP.Associations.Add(-1)
	r.mu.Lock()
	delete(r.own, a.local)
	r.mu.Unlock()
	r.seats.Return(a.seat)
}

// isOwn reports whether ap is a socket of ours that clients send to.
func (r *Relay) isOwn(ap netip.AddrPort) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, own := r.own[ap]
	return own
}

// takeExtra asks for a socket of a further client port.
func (r *Relay) takeExtra(most int) bool {
	if n := r.extra.Add(1); most > 0 && n > int64(most) {
		r.extra.Add(-1)
		return false
	}
	return true
}

// listenClient opens the socket that the client will send to, on the address
// that it already reached us at (RFC 1928 §6: on multi-homed hosts any other
// may not be reachable), with a port of the range.
func listenClient(ctx context.Context, local netip.Addr, ports netaddr.PortRange) (*net.UDPConn, error) {
	network := "udp6"
	if local.Is4() {
		network = "udp4"
	}
	var lc net.ListenConfig
	var last error
	for port := range ports.All() {
		pc, err := lc.ListenPacket(ctx, network, netip.AddrPortFrom(local, port).String())
		if err == nil {
			return pc.(*net.UDPConn), nil
		}
		last = err
		if !errors.Is(err, syscall.EADDRINUSE) && !errors.Is(err, syscall.EACCES) {
			break
		}
	}
	return nil, last
}
