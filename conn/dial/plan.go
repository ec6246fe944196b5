package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"cleversocks/conn/netaddr"
	"cleversocks/resolver"
)

// ErrWaits says that a destination cannot be decided on without waiting for
// somebody, a name server for instance.
var ErrWaits = errors.New("the answer has to be waited for")

// Plan is a Dial that is decided on and has opened nothing: the addresses to
// connect to, judged and in order. Connect does so and waits. Whoever must not
// wait opens a Socket to First instead, and gives it until Until:
//
//	err := d.Prepare(req, &p)
//	s := p.Socket()         // open it, s.Set, bind to s.Source, connect to s.To
//	...
//	case err == nil:        // it is connected
//		p.Done(nil)
//	case p.Final(err):
//		return p.Done(err)  // what Dial would return
//	default:                // it failed, or took too long (a nil err)
//		p.Pass(err)
//		c, err := p.Connect(ctx) // in a goroutine: the addresses that are left
type Plan struct {
	d       *Dialer
	req     Request // its egress and its name are complete
	started time.Time
	literal bool
	addrs   []netip.Addr // of a name, those that are left
	ran     attempts
	err     error // the most telling so far
}

// Prepare is the first half of Dial: which addresses are connected to, without
// waiting. An address is judged as it is, and a name that is remembered by the
// addresses that it had. It is put into p, in the place of what is there. The error
// is Dial's, or ErrWaits, of which nothing is counted.
func (d *Dialer) Prepare(req Request, p *Plan) error {
	*p = Plan{d: d, req: req, started: time.Now()}
	p.req.Egress = req.Egress.Or(d.opts.Egress)
	err := p.decide()
	if err != nil && !errors.Is(err, ErrWaits) {
		err = p.done(attempts{}, err)
	}
	return err
}

// decide finds the addresses and has them judged.
func (p *Plan) decide() (err error) {
	d := p.d
	switch {
	case p.req.Dest.Port == 0:
		return fmt.Errorf("%w: port 0", ErrNoUsableAddress)
	case p.req.Dest.IsName():
		return p.remember()
	}
	p.literal = true
	p.req.Dest.IP = p.req.Dest.IP.Unmap()
	return d.allowed(&p.req, p.req.Dest.IP)
}

// remember finds the addresses of a name in memory.
func (p *Plan) remember() error {
	d := p.d
	full, err := d.CompleteNow(p.req.Dest, p.req.Egress, nil)
	if err != nil {
		return err
	}
	families := d.families(p.req.Egress)
	if d.opts.Known == nil || len(families) == 0 {
		return ErrWaits // to say why not is the race's
	}
	answers, known := d.opts.Known(full.Name, families)
	if !known {
		return ErrWaits
	}
	p.req.Dest = full
	f := d.field(&p.req)
	for _, a := range answers[:len(families)] {
		f.add(a.Addrs, a.Err)
	}
	p.addrs, p.err = f.pending, f.err
	switch {
	case len(p.addrs) > 0:
		return nil
	case f.err == nil:
		return ErrNoUsableAddress
	}
	return f.err
}

// First is the address to connect to first.
func (p *Plan) First() netip.AddrPort {
	if p.literal {
		return p.req.Dest.AddrPort()
	}
	return netip.AddrPortFrom(p.addrs[0], p.req.Dest.Port)
}

// Socket is how a socket is set up that connects to First.
func (p *Plan) Socket() Socket { return p.d.socket(p.First(), p.req.Egress) }

// Until is when a connection to First is given up: when the time of the dial is
// over, or when it is another address's turn. The zero time: never.
func (p *Plan) Until() time.Time {
	if len(p.addrs) > 1 {
		return p.started.Add(attemptDelay)
	}
	return p.deadline()
}

// deadline is when the time of the dial is over; the zero time: never.
func (p *Plan) deadline() time.Time {
	if p.d.opts.ConnectTimeout <= 0 {
		return time.Time{}
	}
	return p.started.Add(p.d.opts.ConnectTimeout)
}

// Final reports whether the failure of a connection to First is the dial's.
func (p *Plan) Final(err error) bool {
	if err == nil || len(p.addrs) > 1 {
		return false
	}
	return !p.literal || !mayTranslate(p.req.Dest.IP, err)
}

// Pass notes that a connection to First has failed, or took too long where err is
// nil, before Connect tries the others.
func (p *Plan) Pass(err error) {
	if p.literal || len(p.addrs) < 2 {
		return // the same again, by Connect's other ways
	}
	first := p.addrs[0]
	p.ran.add(first)
	if err == nil {
		p.addrs[0], p.addrs[1] = p.addrs[1], first
		return
	}
	p.d.opts.History.forget(p.req.Dest, first)
	p.err = worse(p.err, telling(context.Background(), err))
	p.addrs = p.addrs[1:]
}

// Done ends a plan whose connection to First has succeeded, or failed with err, and
// is what Dial would return.
func (p *Plan) Done(err error) error {
	p.ran.add(p.First().Addr())
	return p.done(p.ran, p.settle(p.First().Addr(), telling(context.Background(), err)))
}

// settle notes how the last address of a plan went, and is the plan's error.
func (p *Plan) settle(addr netip.Addr, err error) error {
	switch {
	case p.literal:
		return err
	case err == nil:
		p.d.opts.History.record(p.req.Dest, addr)
		return nil
	}
	p.d.opts.History.forget(p.req.Dest, addr)
	return worse(p.err, err)
}

// done counts how a dial went, and gives its error the destination.
func (p *Plan) done(ran attempts, err error) error {
	if err != nil {
		err = fmt.Errorf("dial %s: %w", p.req.Dest, err)
	}
	p.d.count(ran, time.Since(p.started), err)
	return err
}

// Connect is the second half of Dial. The caller owns the connection.
func (p *Plan) Connect(ctx context.Context) (*net.TCPConn, error) {
	if p.literal || len(p.addrs) == 1 {
		c, err := p.connectSole(ctx)
		return c, p.done(p.ran, err)
	}
	c, ran, err := p.race(ctx)
	return c, p.done(ran, err)
}

// connectSole connects to the only address there is, in the calling goroutine.
func (p *Plan) connectSole(ctx context.Context) (*net.TCPConn, error) { //nolint:contextcheck // deadlineContext inherits ctx
	if at := p.deadline(); !at.IsZero() {
		ctx = deadlineContext{Context: ctx, at: at}
	}
	to := p.First()
	p.ran.add(to.Addr())
	connect := p.d.connect
	if p.literal {
		connect = p.d.connectLiteral
	}
	c, err := connect(ctx, to, p.req.Egress)
	return c, p.settle(to.Addr(), telling(ctx, err))
}

// field is the addresses of a race, of which those that may be dialed stand in
// order.
type field struct {
	d   *Dialer
	req *Request

	first   netip.Addr // of all that have been added
	known   map[netip.Addr]bool
	pending []netip.Addr // allowed, in order, not tried yet
	won     netip.Addr   // by the history
	ran     attempts
	err     error // the most telling so far
}

func (d *Dialer) field(req *Request) field {
	return field{d: d, req: req, won: d.opts.History.last(req.Dest)}
}

// add judges the addresses of an answer, and orders those that may be dialed among
// the others.
func (f *field) add(addrs []netip.Addr, err error) {
	f.err = worse(f.err, err)
	fresh := false
	for _, addr := range addrs {
		addr = netaddr.Plain(addr)
		if !f.isNew(addr) {
			continue
		}
		if err := f.d.allowed(f.req, addr); err != nil {
			f.err = worse(f.err, err)
			continue
		}
		f.pending = append(f.pending, addr)
		fresh = true
	}
	if fresh {
		f.sort()
	}
}

// isNew reports whether an address was not added before. Most names have one.
func (f *field) isNew(addr netip.Addr) bool {
	switch {
	case !f.first.IsValid():
		f.first = addr
		return true
	case f.known == nil:
		f.known = map[netip.Addr]bool{f.first: true}
	}
	isNew := !f.known[addr]
	f.known[addr] = true
	return isNew
}

// sort orders what was not tried yet.
func (f *field) sort() {
	var after resolver.Family
	if f.ran.last.IsValid() {
		after = resolver.FamilyOf(f.ran.last)
	}
	source := func(dst netip.Addr) netip.Addr { return f.d.source(dst, f.req.Egress) }
	if eg := f.req.Egress; len(eg.Addresses) > 0 {
		source = func(dst netip.Addr) netip.Addr {
			src, _ := eg.pick(resolver.FamilyOf(dst))
			return src
		}
	}
	f.pending = order(f.pending, source, f.won, after)
}

// allowed asks the settings and the request's judge for an address.
func (d *Dialer) allowed(req *Request, addr netip.Addr) error {
	if err := d.usable(addr, req.Egress); err != nil {
		return err
	}
	if req.Judge != nil {
		if err := req.Judge(addr); err != nil {
			return &DeniedError{Addr: addr, Err: err}
		}
	}
	return nil
}
