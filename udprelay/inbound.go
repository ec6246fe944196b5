package udprelay

import (
	"bytes"

	"cleversocks/conn/wire"
)

// inbound is the pump from the client: it takes the headers off and sends the
// payloads to their destinations. It belongs to one goroutine.
type inbound struct {
	a     *association
	tally tally
	bytes int
	now   int64

	// memo is the last header of this batch and where it leads: datagrams of
	// a batch mostly share theirs, and are then judged once.
	memo   [wire.MaxUDPHeader]byte
	memoed int
	target target

	// The last sender of this batch, and the client's port that it is.
	from endpoint
	port *clientPort
	what outcome // relayed, or why port is nil

	run  run // of one flow
	out  *sendQueue
	sock *socket // what out is for
}

func newInbound(a *association) *inbound { return &inbound{a: a} }

// handle moves a batch.
func (p *inbound) handle(b *batch, n int) {
	a := p.a
	a.refresh()
	p.now, p.memoed, p.out, p.sock, p.from = a.now(), 0, &b.out, nil, endpoint{}
	for i := range n {
		from, data, size := b.datagram(i)
		if from.addrPort().Addr() != a.clientIP {
			p.tally[wrongClient]++
			continue
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
	p.run.settle(FromClient, p.now)
	a.account(FromClient, &p.tally, p.bytes)
	p.tally, p.bytes, p.out, p.sock, p.target, p.port = tally{}, 0, nil, nil, target{}, nil
}

// datagram handles one of the client's address.
func (p *inbound) datagram(from *endpoint, b []byte) {
	if protect := p.a.s.Protect; protect != nil {
		var err error
		if b, err = protect.UnwrapDatagram(b); err != nil {
			p.tally[malformed]++
			return
		}
	}
	if n := p.memoed; n > 0 && *from == p.from && len(b) >= n && bytes.Equal(b[2:n], p.memo[2:n]) {
		p.send(b[n:])
		return
	}
	h, n, err := wire.ParseUDPHeader(b)
	if err != nil {
		p.tally[malformed]++
		return
	}
	if !p.fromClient(from) {
		p.tally[p.what]++
		return
	}
	payload := b[n:]
	if h.Frag != 0 {
		whole, done := p.a.fragments.add(h.Frag, b[3:n], payload)
		if !done {
			p.tally[fragment]++
			return
		}
		payload = whole
	}
	p.target = p.a.route(p.port, h.Dest, p.now)
	if p.target.what == pending {
		p.memoed = 0
		p.tally[p.a.enqueue(p.port, h.Dest, payload)]++
		return
	}
	p.memoed = 0
	if h.Frag == 0 {
		p.memoed = copy(p.memo[:], b[:n])
	}
	p.send(payload)
}

// fromClient finds the client's port that a valid datagram comes from, which
// such a datagram teaches.
func (p *inbound) fromClient(from *endpoint) bool {
	if *from != p.from {
		p.memoed = 0 // another port's way is another one
		p.port, p.what = p.a.portOf(from, p.now)
		p.from = *from
	}
	if p.port == nil {
		return false
	}
	p.port.heard.Store(p.now)
	return true
}

// send queues a payload for the target.
func (p *inbound) send(payload []byte) {
	t := &p.target
	if t.what != relayed {
		p.tally[t.what]++
		return
	}
	if what := p.a.metered(FromClient, len(payload)); what != relayed {
		p.tally[what]++
		return
	}
	if t.keep {
		p.a.names.keep(t.name, t.port, p.port, payload)
	}
	if p.sock != t.sock {
		p.flush()
		p.sock = t.sock
	}
	p.port.moved.Store(p.now)
	p.run.add(t.flow, FromClient, len(payload), p.now)
	for range 2 { // the second time into an empty queue, which has room
		var head []byte
		if p.a.upstream != nil {
			room := p.out.arena.room()
			if room == nil {
				p.flush()
				room = p.out.arena.room()
			}
			head, _ = wire.AppendUDPHeader(room, t.dest) // a name that came in fits
		}
		if p.out.add(t.sock, &t.to, head, payload) {
			p.out.arena.took(len(head))
			return
		}
		p.flush()
	}
}

func (p *inbound) flush() {
	if p.sock == nil || p.out.empty() {
		return
	}
	f := p.out.flush(p.sock)
	p.tally.sent(f)
	p.bytes += f.bytes
}
