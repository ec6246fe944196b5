package udprelay

import "cleversocks/conn/wire"

// outbound is the pump from one family's destinations: it filters, puts the
// header on and sends to the client. It belongs to one goroutine.
type outbound struct {
	a     *association
	tally tally
	bytes int
	now   int64
	out   *sendQueue
	to    *endpoint // the client

	// The last sender of this batch, and what the filter said of it.
	from     endpoint
	admitted outcome
}

func newOutbound(a *association) *outbound { return &outbound{a: a} }

// handle moves a batch.
func (p *outbound) handle(b *batch, n int) {
	a := p.a
	c := a.client.Load()
	if c == nil {
		return // a socket was opened, yet nobody is known to have asked for it
	}
	a.refresh()
	p.now, p.out, p.to, p.from = a.now(), &b.out, &c.at, endpoint{}
	for i := range n {
		from, data, size := b.datagram(i)
		if from != p.from {
			p.from = from
			p.admitted = p.admits(&from)
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
	a.account(ToClient, &p.tally, p.bytes, p.now)
	p.tally, p.bytes, p.out, p.to = tally{}, 0, nil, nil
}

func (p *outbound) admits(from *endpoint) outcome {
	if p.a.upstream == nil {
		return p.a.admits(from.addrPort(), p.now)
	}
	if *from != p.a.upstream.to {
		return filtered
	}
	return relayed
}

// datagram handles one reply.
func (p *outbound) datagram(from *endpoint, b []byte) {
	if p.admitted != relayed {
		p.tally[p.admitted]++
		return
	}
	room := p.out.arena.room()
	if room == nil {
		p.flush()
		room = p.out.arena.room()
	}
	var head []byte
	if p.a.upstream == nil {
		head = wire.AppendUDPReplyHeader(room, from.addrPort())
	} else {
		var ok bool
		if head, b, ok = unwrap(room, b); !ok {
			p.tally[malformed]++
			return
		}
	}
	if what := p.a.metered(ToClient, len(b)); what != relayed {
		p.tally[what]++
		return
	}
	if !p.out.add(p.a.relay, p.to, head, b) {
		p.flush()
		head = append(p.out.arena.room(), head...) // flush emptied the arena
		p.out.add(p.a.relay, p.to, head, b)
	}
	p.out.arena.took(len(head))
}

func (p *outbound) flush() {
	if p.out.empty() {
		return
	}
	f := p.out.flush(p.a.relay)
	p.tally.sent(f)
	p.bytes += f.bytes
}
