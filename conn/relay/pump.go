package relay

import (
	"sync"
)

// firstRead is what an idle direction keeps for a source that cannot tell
// when it is readable, such as a TLS conn.
const firstRead = 512

// pump moves one direction, a chunk after the other. It is driven by step: by a
// reactor (turn.go), or by a goroutine of its own (goroutine.go). A chunk is
// delivered whole before the next one is read: that is the backpressure.
type pump struct {
	t       *Tunnel
	booking *booking // what the meter has said; nil without a meter
	place   whereabouts
	dir     Direction
	result  outcome // what the last try came to, with err

	canSplice bool
	large     bool  // chunks come full: they are spliced, or for a conn that is no socket take a buffer
	small     uint8 // chunks in a row that were too small for splice
	unpiped   uint8 // full reads to go until a pipe is asked for again
	streak    uint8 // large chunks in a row
	wide      bool  // its buffers are of wideBuffer
	brief     bool  // the last read got less than there was room for
	calm      bool  // see the readiness

	// The chunk on its way is in one of the two. Both are nil while there is
	// nothing to move.
	buf   []byte
	pipe  *pipe
	first *[]byte // for a source that is no socket: firstRead bytes, or what it lends; else nil
	off   int32   // next byte of buf, or of first, to deliver
	left  int32   // bytes to deliver

	err error
}

// src is the end that the pump reads.
func (p *pump) src() *end {
	if p.dir == In {
		return &p.t.client
	}
	return &p.t.server
}

// dst is the end that it writes.
func (p *pump) dst() *end {
	if p.dir == In {
		return &p.t.server
	}
	return &p.t.client
}

func (p *pump) init(t *Tunnel, dir Direction) {
	p.t, p.dir = t, dir
	if t.meter != nil {
		p.booking = new(booking)
	}
	p.initSockets()
	src, dst := p.src(), p.dst()
	p.wide = makesWide(dst) && src.isSocket() || makesWide(src)
	if src.isSocket() {
		return
	}
	p.first = new([]byte)
	if _, lends := src.conn.(lender); !lends {
		*p.first = make([]byte, firstRead)
	}
}

// outcome is what a step came to.
type outcome uint8

const (
	moved           outcome = iota // a chunk was delivered whole, and there may be more
	wantsBytes                     // the source has nothing to read now
	wantsRoom                      // the destination takes no more of the chunk now
	wantsGrant                     // the meter lets nothing move for booking.wait
	meterRefused                   // the meter ends the tunnel: with its error
	sourceOver                     // the source has ended, with io.EOF, or has failed
	destinationOver                // the destination has failed
)

// step moves one chunk, or what is left of it. It never blocks: the outcome
// says what has to happen before the next step. A conn that is no socket cannot
// be asked without waiting for the answer, so a step that comes to it stops
// there; only a goroutine can wait for one (see fetch and push).
func (p *pump) step() (outcome, error) {
	if p.left == 0 {
		if o, err := p.take(); o != moved {
			return o, err
		}
	}
	if o, err := p.pay(); o != moved {
		return o, err
	}
	return p.give()
}

// take reads a chunk.
func (p *pump) take() (outcome, error) {
	if !p.src().isSocket() {
		return wantsBytes, nil
	}
	if err := p.tryFrom(); err != nil {
		return sourceOver, err
	}
	return p.came()
}

// give writes what is left of the chunk.
func (p *pump) give() (outcome, error) {
	if !p.dst().isSocket() {
		return wantsRoom, nil
	}
	if err := p.tryTo(); err != nil {
		return destinationOver, err
	}
	return p.came()
}

// came is what the last try came to.
func (p *pump) came() (outcome, error) {
	err := p.err
	p.err = nil
	return p.result, err
}

// chunk is what is left of a chunk in memory.
func (p *pump) chunk() []byte {
	b := p.buf
	if b == nil {
		b = *p.first
	}
	return b[p.off : p.off+p.left]
}

// delivered counts n bytes that the destination has taken.
func (p *pump) delivered(n int) {
	p.off += int32(n)
	p.left -= int32(n)
	p.count(n)
}

func (p *pump) count(n int) {
	counters, m := p.t.counters, p.t.o.Metrics
	if p.dir == In {
		counters.In.Add(int64(n))
	} else {
		counters.Out.Add(int64(n))
	}
	switch {
	case m == nil:
	case p.dir == In:
		m.BytesIn.Add(n)
	default:
		m.BytesOut.Add(n)
	}
}

// opposite is the pump of the other direction.
func (p *pump) opposite() *pump {
	if p.dir == In {
		return &p.t.out
	}
	return &p.t.in
}

// takeBuffer makes sure that there is a buffer in hand.
func (p *pump) takeBuffer() []byte {
	switch {
	case p.buf != nil:
	case p.wide:
		p.buf = wideBuffers.Get().(*[wideBuffer]byte)[:]
	default:
		p.buf = p.t.o.Pools.takeBuffer(p.t.o.BufferSize)
	}
	return p.buf
}

func (p *pump) dropBuffer() {
	switch {
	case p.buf == nil:
		return
	case p.wide:
		wideBuffers.Put((*[wideBuffer]byte)(p.buf))
	case len(p.buf) == p.t.o.BufferSize: // another one held what was in a pipe
		p.t.o.Pools.giveBuffer(p.buf)
	}
	p.buf = nil
}

// messenger is a conn that moves so many bytes at a time, each time at a price:
// one of many bytes costs little more than one of a few.
type messenger interface{ MessageSize() int }

func makesWide(e *end) bool {
	if e.isBare() {
		return false
	}
	m, ok := e.conn.(messenger)
	return ok && m.MessageSize() >= wideBuffer/2
}

// wideBuffer is the size of the buffers of pumps to or from such a conn.
const wideBuffer = 64 << 10

var wideBuffers = sync.Pool{New: func() any { return new([wideBuffer]byte) }}

func (p *pump) dropPipe() {
	p.pipeMoves()
	if p.pipe != nil {
		p.t.o.Pools.givePipe(p.pipe)
		p.pipe = nil
	}
}

// abandon gives back all that is in hand.
func (p *pump) abandon() {
	p.dropBuffer()
	p.dropPipe()
}
