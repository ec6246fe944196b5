// Package dial opens the outgoing connections: it resolves a name, asks
// whether each address may be reached, races the addresses against each other
// (Happy Eyeballs v2, RFC 8305) and sets source address and socket options.
//
//	d := dial.New(dial.Options{Lookup: res.Lookup, ConnectTimeout: 10 * time.Second, NoDelay: true})
//	c, err := d.Dial(ctx, dial.Request{Dest: req.Dest, Judge: policy.Judge})
//
// The addresses that Judge saw are the ones that are dialed: no name is
// resolved a second time, so an answer that changes between the check and the
// connection (DNS rebinding) gains nothing.
package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"cleversocks/conn/task"
	"cleversocks/conn/wire"
	"cleversocks/metrics"
	"cleversocks/resolver"
)

// Family says which address families are dialed.
type Family uint8

// The choices of a family.
const (
	FamilyAuto Family = iota // both, raced
	FamilyIPv4
	FamilyIPv6
)

// allows reports whether addresses of a family are dialed.
func (f Family) allows(of resolver.Family) bool {
	switch f {
	case FamilyIPv4:
		return of == resolver.IPv4
	case FamilyIPv6:
		return of == resolver.IPv6
	case FamilyAuto:
	}
	return true
}

// Options configure a Dialer.
type Options struct {
	// Lookup resolves a name to the addresses of one family. It returns
	// when its context ends. Nil: names cannot be dialed.
	Lookup func(ctx context.Context, name string, family resolver.Family) ([]netip.Addr, error)
	// Known answers for a name in one or two families at once, from memory, or not
	// at all. Nil: nothing is remembered.
	Known func(name string, families []resolver.Family) (answers [2]resolver.Answer, known bool)
	// Search is the complete names that a name without its final dot stands
	// for, in the order to try them; none: the name itself. Nil: no search
	// list.
	Search func(name string) []string
	// ConnectTimeout bounds a whole Dial, resolution and all attempts
	// included. 0: the context alone bounds it.
	ConnectTimeout time.Duration
	Family         Family
	KeepAlive      net.KeepAliveConfig
	NoDelay        bool
	// Congestion is the TCP_CONGESTION of the sockets; empty: the system's.
	Congestion string
	// Egress is for the requests that bring none of their own.
	Egress Egress
	// History remembers what won. Give the same one to the Dialer that
	// follows on a reload; nil: the Dialer makes its own.
	History *History
	// Spares bounds the attempts beyond the first of each race; give the same
	// one to the Dialer that follows. Nil: no bound.
	Spares  *Spares
	Metrics metrics.Dial
	// Panics hears of panics in look-ups and attempts, which fail by them. Nil:
	// nobody does.
	Panics *task.Reporter
}

// Request is one connection to make.
type Request struct {
	// Dest is completed by the search list unless it is Absolute. Who has rules
	// about names calls Complete first, so that they see the name that answers.
	Dest wire.Addr
	// Judge is asked for each address before it is dialed: nil means that it
	// may be. It is called from the goroutine that called Dial. Nil: all may.
	Judge func(netip.Addr) error
	// Egress says where the connection leaves from; what is zero of it is
	// taken from Options.Egress.
	Egress Egress
	// Client is on whose behalf it is made, for its share of Options.Spares.
	// Not valid: nobody's, without a share of its own.
	Client netip.Addr
}

// Dialer makes connections. It is safe for use by many goroutines and keeps
// nothing between dials but its History.
type Dialer struct {
	opts    Options
	connect connectFunc
	socket  func(to netip.AddrPort, egress Egress) Socket
	source  sourceFunc
}

// connectFunc opens one connection; tests bring their own.
type connectFunc func(ctx context.Context, to netip.AddrPort, egress Egress) (*net.TCPConn, error)

// New makes a Dialer.
func New(opts Options) *Dialer {
	if opts.History == nil {
		opts.History = NewHistory(defaultHistory)
	}
	d := &Dialer{opts: opts, source: sourceAddr}
	k := connector{keepAlive: opts.KeepAlive, noDelay: opts.NoDelay, congestion: opts.Congestion}
	d.connect, d.socket = k.connect, k.socket
	return d
}

// Dial connects to the request's destination. The caller owns the connection.
// The error is the most telling of all attempts'; it wraps what Judge said
// when nothing was left to dial, ErrNoUsableAddress, one of the resolver's
// errors, the system's errno, or the context's error. See Classify.
//
// It is Prepare and Connect, but for names that nobody remembers, whose addresses
// are raced while they arrive.
func (d *Dialer) Dial(ctx context.Context, req Request) (*net.TCPConn, error) {
	var p Plan
	err := d.Prepare(req, &p)
	if errors.Is(err, ErrWaits) {
		if p.req.Dest, err = d.Complete(ctx, p.req.Dest, p.req.Egress, nil); err != nil {
			return nil, err // counted already
		}
		c, ran, err := p.race(ctx)
		return c, p.done(ran, err)
	}
	if err != nil {
		return nil, err
	}
	return p.Connect(ctx)
}

// deadlineContext says when to give up, and leaves it to the one who asks to
// watch the clock: package net sets its socket's deadline by it. A context
// with a timer of its own would cost a tenth of what the connection costs.
type deadlineContext struct {
	context.Context
	at time.Time
}

// Deadline is the earlier one of this and the parent's.
func (c deadlineContext) Deadline() (time.Time, bool) {
	if at, ok := c.Context.Deadline(); ok && at.Before(c.at) {
		return at, true
	}
	return c.at, true
}

// usable reports why an address cannot be dialed at all: settings exclude its
// family, or it names no single host. The kernel takes 0.0.0.0 and :: to mean
// this host, which no rule about loopback would have seen.
func (d *Dialer) usable(ip netip.Addr, egress Egress) error {
	switch {
	case !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast():
		return fmt.Errorf("%w: %s names no host", ErrNoUsableAddress, ip)
	case !d.opts.Family.allows(resolver.FamilyOf(ip)):
		return fmt.Errorf("%w: %s is turned off", ErrNoUsableAddress, resolver.FamilyOf(ip))
	case !egress.carries(resolver.FamilyOf(ip)):
		return fmt.Errorf("%w: no source address for %s", ErrNoUsableAddress, resolver.FamilyOf(ip))
	}
	return nil
}

// attempts counts the addresses tried, and remembers the last one's family.
type attempts struct {
	v4, v6 int
	last   netip.Addr
}

func (a *attempts) add(ip netip.Addr) {
	a.last = ip
	if resolver.FamilyOf(ip) == resolver.IPv4 {
		a.v4++
	} else {
		a.v6++
	}
}

// count records how a dial went.
func (d *Dialer) count(ran attempts, took time.Duration, err error) {
	family := metrics.DialNone
	if ran.last.IsValid() {
		family = resolver.FamilyOf(ran.last).String()
	}
	if h := d.opts.Metrics.Duration(family, Classify(err)); h != nil {
		h.Update(took.Seconds())
	}
	if h := d.opts.Metrics.Attempts("ipv4"); h != nil && ran.v4 > 0 {
		h.Update(float64(ran.v4))
	}
	if h := d.opts.Metrics.Attempts("ipv6"); h != nil && ran.v6 > 0 {
		h.Update(float64(ran.v6))
	}
}
