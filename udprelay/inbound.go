package udprelay

import (
	"bytes"
	"time"

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

	out  *sendQueue
	sock *socket // what out is for
}

func newInbound(a *association) *inbound { return &inbound{a: a} }

// handle moves a batch.
func (p *inbound) handle(b *batch, n int) {
	a := p.a
	a.refresh()
	p.now, p.memoed, p.out, p.sock = a.now(), 0, &b.out, nil
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
	a.account(FromClient, &p.tally, p.bytes, p.now)
	p.tally, p.bytes, p.out, p.sock, p.target = tally{}, 0, nil, nil, target{}
}

// datagram handles one of the client's address.
func (p *inbound) datagram(from *endpoint, b []byte) {
	if n := p.memoed; n > 0 && len(b) >= n && bytes.Equal(b[2:n], p.memo[2:n]) {
		if !p.fromClient(from) {
			p.tally[wrongClient]++
			return
		}
		p.send(b[n:])
		return
	}
	h, n, err := wire.ParseUDPHeader(b)
	if err != nil {
		p.tally[malformed]++
		return
	}
	if !p.fromClient(from) {
		p.tally[wrongClient]++
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
	p.target = p.a.route(h.Dest, p.now)
	if p.target.what == pending {
		p.memoed = 0
		p.tally[p.a.enqueue(h.Dest, payload)]++
		return
	}
	p.memoed = 0
	if h.Frag == 0 {
		p.memoed = copy(p.memo[:], b[:n])
	}
	p.send(payload)
}

// fromClient reports whether a datagram comes from the client's port, which
// the first valid one teaches.
func (p *inbound) fromClient(from *endpoint) bool {
	a := p.a
	c := a.client.Load()
	if c == nil || c.at != *from {
		if c != nil && p.now-a.heard.Load() < int64(rebindAfter) {
			return false
		}
		a.client.Store(&client{at: *from})
	}
	a.heard.Store(p.now)
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
	if p.sock != t.sock {
		p.flush()
		p.sock = t.sock
	}
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

// deliver sends one datagram outside of a batch: its name took a while.
func (a *association) deliver(t target, payload []byte) {
	var count tally
	bytes := 0
	if count[t.what]++; t.what == relayed {
		count[relayed] = 0
		if what := a.metered(FromClient, len(payload)); what != relayed {
			count[what]++
		} else if err := t.sock.sendOne(&t.to, payload); err != nil {
			count[failed]++
		} else {
			count[relayed]++
			bytes = len(payload)
		}
	}
	a.account(FromClient, &count, bytes, int64(time.Since(a.began)))
}
