package udprelay

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"time"

	"cleversocks/aclsvc/ratelimit"
	"cleversocks/conn/netaddr"
	"cleversocks/conn/wire"
)

const (
	// lookups, waiting and waitingBytes bound what one association has under
	// way, and what waits for it.
	lookups      = 8
	waiting      = 64
	waitingBytes = 24 << 10
	// lookupLimit bounds one look-up, the wait for its turn included.
	lookupLimit = 15 * time.Second
)

// waitKey is what datagrams wait for: a name, or a client port's half of the
// way at an upstream.
type waitKey struct {
	name string
	port *clientPort
}

// queue is the datagrams that wait for one of them.
type queue struct {
	datagrams []waitingDatagram
}

type waitingDatagram struct {
	from    *clientPort
	dest    wire.Addr // as sent; for a name only the port matters
	payload []byte
}

// enqueue keeps a datagram until it can be routed, and starts what it waits
// for. What it returns is to be counted; pending is not.
func (a *association) enqueue(p *clientPort, raw wire.RawAddr, payload []byte) outcome {
	n := &a.names
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.count >= waiting || n.bytes > 0 && n.bytes+len(payload) > waitingBytes {
		return overload
	}
	dest, err := raw.Addr()
	if err != nil {
		return malformed
	}
	key := waitKey{port: p}
	if a.upstream == nil {
		key = waitKey{name: string(raw.Name)}
	}
	q := n.queues[key]
	if q == nil {
		if len(n.queues) >= lookups || a.r.lookups.Take(a.seat, ratelimit.Bounds{PerSeat: seatLookups}) != ratelimit.Admitted {
			return overload
		}
		q = new(queue)
		n.queues[key] = q
		a.spawn("look-up", func() error {
			defer a.r.lookups.Return(a.seat)
			if a.upstream != nil {
				a.reachUpstream(key)
			} else {
				a.lookup(key, dest)
			}
			return nil
		})
	}
	q.datagrams = append(q.datagrams, waitingDatagram{from: p, dest: dest, payload: bytes.Clone(payload)})
	n.count++
	n.bytes += len(payload)
	return pending
}

// dequeue takes what waits for something. The caller holds names.mu.
func (n *names) dequeue(key waitKey) []waitingDatagram {
	q := n.queues[key]
	delete(n.queues, key)
	for _, d := range q.datagrams {
		n.count--
		n.bytes -= len(d.payload)
	}
	return q.datagrams
}

// lookup resolves a name and sends what waits for it.
func (a *association) lookup(key waitKey, dest wire.Addr) {
	e := &name{raw: key.name, addr: dest}
	e.addr.Port = 0
	if dest.IsName() {
		if e.addr, e.ips, e.denied = a.resolve(dest); len(e.ips) == 0 {
			e.expires = a.now() + int64(failedTTL)
		}
	}
	n := &a.names
	n.mu.Lock()
	n.put(e, a.now())
	waited := n.dequeue(key)
	n.mu.Unlock()
	for _, d := range waited {
		if a.ctx.Err() != nil {
			return
		}
		t := a.routeKnown(d.from, e, d.dest.Port, a.now())
		if t.keep {
			n.keep(e, t.port, d.from, d.payload)
		}
		a.deliver(d.from, t, d.payload)
	}
}

// resolve is the request's resolver within bounds: the name that answers,
// which is the one that the rules judge, without a port, and its addresses in
// the order to try them; or that the rules refuse it whatever they are.
func (a *association) resolve(asked wire.Addr) (dest wire.Addr, ips []netip.Addr, refused bool) {
	ctx, cancel := context.WithTimeout(a.ctx, lookupLimit)
	defer cancel()
	dest = asked
	err := a.r.turns.Acquire(ctx, 1)
	if err == nil {
		defer a.r.turns.Release(1)
		if a.s.Complete != nil {
			dest, err = a.s.Complete(ctx, asked)
		}
	}
	if err == nil {
		ips, err = a.s.Resolve(ctx, dest)
	}
	if err != nil {
		a.r.log.Debug("datagram's name not resolved", "id", a.s.ID, "name", asked.Name, "err", err)
		dest, ips = asked, nil
	}
	dest.Port = 0
	kept := make([]netip.Addr, 0, min(len(ips), addressesKept))
	for _, ip := range ips[:min(len(ips), addressesKept)] {
		kept = append(kept, netaddr.Plain(ip))
	}
	return dest, kept, errors.Is(err, ErrDenied)
}

// deliver sends one datagram outside of a batch: it had to wait.
func (a *association) deliver(p *clientPort, t target, payload []byte) {
	var count tally
	sent := 0
	what := t.what
	if what == relayed {
		what = a.metered(FromClient, len(payload))
	}
	if what == relayed {
		var head []byte
		if a.upstream != nil {
			head, _ = wire.AppendUDPHeader(nil, t.dest) // a name that came in fits
		}
		if err := t.sock.sendOne(&t.to, head, payload); err != nil {
			what = failed
		} else {
			sent = len(payload)
			var one run
			one.add(t.flow, FromClient, sent, a.now())
			one.settle(FromClient, a.now())
			p.moved.Store(a.now())
		}
	}
	count[what]++
	a.account(FromClient, &count, sent)
}
