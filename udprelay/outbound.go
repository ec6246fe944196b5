package udprelay

import (
	"net/netip"

	"cleversocks/conn/wire"
)

// outbound is the pump from one family's destinations to one of the client's
// ports: it filters, puts the header on and sends. It belongs to one goroutine.
type outbound struct {
	a     *association
	port  *clientPort
	tally tally
	bytes int
	now   int64
	out   *sendQueue
	to    *endpoint // the client's port
	run   run       // of one flow
	flow  *flow     // of from; nil: nobody counts

	// The last sender of this batch, and what the filter said of it.
	from endpoint
	what outcome

	plain, wrapped []byte // of the last protected reply
}

func newOutbound(a *association, p *clientPort) *outbound { return &outbound{a: a, port: p} }

// handle moves a batch.
func (p *outbound) handle(b *batch, n int) {
	a := p.a
	a.refresh()
	p.now, p.out, p.to, p.from = a.now(), &b.out, p.port.at.Load(), endpoint{}
	for i := range n {
		from, data, size := b.datagram(i)
		if from != p.from {
			p.from = from
			p.what, p.flow = p.returns(&from), nil
			if p.what == relayed && a.upstream == nil {
				p.flow = a.flows.from(from.addrPort(), false, p.now)
			}
		}
		for {
			one := data[:min(size, len(data))]
			p.datagram(&from, one)
			data = data[len(one):]
			if len(data) == 0 {
				break
			}
		}
	}
	p.flush()
	p.run.settle(ToClient, p.now)
	if p.tally[relayed] > 0 {
		p.port.moved.Store(p.now)
	}
	a.account(ToClient, &p.tally, p.bytes)
	p.tally, p.bytes, p.out, p.to = tally{}, 0, nil, nil
}

// returns says what becomes of a sender's datagrams.
func (p *outbound) returns(from *endpoint) outcome {
	if p.a.upstream == nil {
		return p.a.returns(p.port, from.addrPort(), p.now)
	}
	if u, what := p.a.upstreamOf(p.port, p.now); what != relayed || *from != u.to {
		return filtered
	}
	return relayed
}

// datagram handles one reply.
func (p *outbound) datagram(from *endpoint, b []byte) {
	if p.what != relayed {
		p.tally[p.what]++
		return
	}
	room := p.out.arena.room()
	if room == nil {
		p.flush()
		room = p.out.arena.room()
	}
	var head []byte
	flow := p.flow
	if p.a.upstream == nil {
		head = wire.AppendUDPReplyHeader(room, from.addrPort())
	} else {
		var ok bool
		var sender netip.AddrPort
		if head, b, sender, ok = unwrap(room, b); !ok {
			p.tally[malformed]++
			return
		}
		flow = p.a.flows.from(sender, true, p.now)
	}
	if what := p.a.metered(ToClient, len(b)); what != relayed {
		p.tally[what]++
		return
	}
	p.run.add(flow, ToClient, len(b), p.now)
	if p.a.s.Protect != nil {
		p.protected(head, b)
		return
	}
	if !p.out.add(p.a.relay, p.to, head, b) {
		p.flush()
		head = append(p.out.arena.room(), head...) // flush emptied the arena
		p.out.add(p.a.relay, p.to, head, b)
	}
	p.out.arena.took(len(head))
}

// protected sends a reply wrapped, by itself: each has another length.
func (p *outbound) protected(head, payload []byte) {
	p.plain = append(append(p.plain[:0], head...), payload...)
	p.wrapped = p.a.s.Protect.WrapDatagram(p.wrapped[:0], p.plain)
	switch {
	case len(p.wrapped) == 0:
		p.tally[tooBig]++
	case p.a.relay.sendOne(p.to, nil, p.wrapped) != nil:
		p.tally[failed]++
	default:
		p.tally[relayed]++
		p.bytes += len(payload)
	}
}

func (p *outbound) flush() {
	if p.out.empty() {
		return
	}
	f := p.out.flush(p.a.relay)
	p.tally.sent(f)
	p.bytes += f.bytes
}
