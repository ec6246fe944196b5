package relay

import (
	"cmp"
	"errors"
	"io"
	"time"
)

// The goroutine's driver of pumps. It waits between the steps where the
// reactor's driver (turn.go) does something else. It is for a bulk transfer, as
// long as that lasts, and for a tunnel that has no reactor, to its end.

// bulkAfter is how many large chunks in a row make a bulk transfer. Each round
// through a reactor costs a look at the sockets more than a goroutine that waits
// for one of them.
const bulkAfter = 16

// bulky says whether the chunk that was just delivered continues a bulk
// transfer that deserves a goroutine.
func (p *pump) bulky() bool {
	if !p.large || p.small > 0 {
		p.streak = 0
		return false
	}
	if p.streak++; p.streak < bulkAfter {
		return false
	}
	p.streak = 0
	return true
}

// launch gives the pump a goroutine. The caller holds t.mu.
func (p *pump) launch() {
	p.place.set(onGoroutine)
	p.calm = false
	p.t.callbacks.Add(1)
	go p.run()
}

// recall has a pump's goroutine give it back to the reactor, if there is one.
// The caller holds t.mu.
func (p *pump) recall() {
	if p.t.reactor != nil && p.place.at(onGoroutine) {
		p.tell(recalled)
	}
}

// run is the pump's goroutine.
func (p *pump) run() {
	over := p.ride()
	if !over && p.place.at(halfClosed) && p.t.reactor == nil {
		over = p.linger()
	}
	p.t.callbacks.Done()
	if over {
		p.t.finish()
	}
}

// ride moves the pump until it ends, pauses or goes to its reactor. It reports
// whether the caller has to finish the tunnel.
func (p *pump) ride() (over bool) {
	var o outcome
	var err error
	defer func() {
		v := recover()
		over = p.t.locked(func() {
			p.t.contain(v)
			p.land(o, err)
		})
	}()
	o, err = p.drive()
	if o == sourceOver && !p.dst().isSocket() {
		p.passEndWaiting(err)
	}
	return false
}

// drive takes steps, and waits between them for what they want.
func (p *pump) drive() (o outcome, err error) {
	// Both have to try by themselves: a raw conn forgets what was ready before
	// the call.
	whenReadable := func(uintptr) bool {
		o, err = p.steps()
		return o != wantsBytes || p.bulkIsOver()
	}
	whenWritable := func(uintptr) bool {
		o, err = p.steps()
		return o != wantsRoom
	}
	if p.left == 0 {
		o = wantsBytes
	}
	for first := true; p.place.at(onGoroutine); first = false {
		switch {
		case o == moved:
			o, err = p.steps()
		case o == wantsBytes && !p.src().isSocket():
			o, err = p.fetch()
		case o == wantsBytes && (first || !p.bulkIsOver()):
			if failed := p.src().raw.Read(whenReadable); failed != nil {
				return sourceOver, failed
			}
		case o == wantsRoom && !p.dst().isSocket():
			o, err = p.push()
		case o == wantsRoom:
			if failed := p.dst().raw.Write(whenWritable); failed != nil {
				return destinationOver, failed
			}
		default:
			return o, err
		}
	}
	return o, err
}

// bulkIsOver says of a pump whose source has run dry whether it goes back to
// its reactor.
func (p *pump) bulkIsOver() bool { return p.t.reactor != nil && !p.large }

// steps takes steps until one cannot go on or the goroutine is told something.
func (p *pump) steps() (outcome, error) {
	for p.place.at(onGoroutine) {
		if o, err := p.step(); o != moved {
			return o, err
		}
	}
	return moved, nil
}

// fetch waits for a chunk of a source that is no socket. It waits with firstRead
// bytes; a read that fills them is followed by one into a buffer, so only a
// source that pauses exactly there makes it wait with a buffer in hand.
func (p *pump) fetch() (outcome, error) {
	if source, ok := p.src().conn.(lender); ok {
		return p.borrow(source)
	}
	if source, ok := p.src().conn.(gatherer); ok {
		return p.gather(source)
	}
	into := *p.first
	if p.large { // the last read came full
		into = p.takeBuffer()
	} else {
		p.dropBuffer()
	}
	n, err := p.src().conn.Read(into)
	if n == 0 && err == nil {
		err = io.ErrNoProgress
	}
	if n == 0 {
		return sourceOver, err
	}
	p.large = n == len(into)
	return p.hold(n), nil // an error with it comes again
}

// lender is a conn that has what it reads in memory of its own already, as one
// that decrypts whole messages. Next waits, and lends up to n bytes until it is
// called again.
type lender interface{ Next(n int) ([]byte, error) }

// borrow is fetch for such a source: it waits with nothing in hand.
func (p *pump) borrow(source lender) (outcome, error) {
	n := pipeSize
	if p.booking != nil {
		n = p.t.o.BufferSize // what a cap lets through comes in small parts
	}
	*p.first = nil
	lent, err := source.Next(n)
	if len(lent) == 0 {
		return sourceOver, cmp.Or(err, io.ErrNoProgress)
	}
	*p.first = lent
	return p.hold(len(lent)), nil
}

// gatherer is a conn that reads more than it is asked for, as one of TLS. Gather
// gives what it has read already, and does not wait.
type gatherer interface{ Gather(b []byte) int }

// gather is fetch for such a source: it never waits with a buffer in hand, and
// moves what one read of the socket brought as one chunk.
func (p *pump) gather(source gatherer) (outcome, error) {
	p.dropBuffer()
	n, err := p.src().conn.Read(*p.first)
	if n == 0 {
		return sourceOver, cmp.Or(err, io.ErrNoProgress)
	}
	if n == len(*p.first) {
		b := p.takeBuffer()
		if p.booking != nil {
			b = b[:min(len(b), p.t.o.BufferSize)] // what a cap lets through comes in small parts
		}
		n = copy(b, *p.first)
		n += source.Gather(b[n:])
	}
	return p.hold(n), nil
}

// hold is a chunk of n bytes in hand, for which nothing is booked yet.
func (p *pump) hold(n int) outcome {
	p.off, p.left = 0, int32(n)
	if p.booking != nil {
		p.booking.unpaid = n
	}
	return moved
}

// push waits until a destination that is no socket has taken the chunk.
func (p *pump) push() (outcome, error) {
	n, err := p.dst().conn.Write(p.chunk())
	p.delivered(n)
	if err != nil {
		return destinationOver, err
	}
	return moved, nil
}

// passEndWaiting passes an end of stream on to a conn that is no socket, before
// the pump lands: it may have to wait for room, and the lock is not for that.
func (p *pump) passEndWaiting(err error) {
	clean := false
	p.t.locked(func() { // not over: this pump has not ended
		clean = p.place.at(onGoroutine) && errors.Is(err, io.EOF) && !p.wasReset()
		if clean {
			p.noteClosed()
		}
	})
	if clean {
		p.dst().closeWrite()
	}
}

// land is for a pump whose goroutine has nothing more to do, for what it was
// told or what its last step came to. The caller holds t.mu.
func (p *pump) land(o outcome, err error) {
	told := p.place.now()
	p.place.set(atReactor) // nobody else moves it
	switch {
	case told == ending:
		p.end()
	case o >= wantsGrant && !interrupted(err):
		p.conclude(o, err)
	case p.t.reactor == nil:
		p.end()
	}
	if p.t.reactor == nil {
		return
	}
	if p.place.at(atReactor) {
		if p.left == 0 {
			p.abandon()
		}
		_ = p.src().conn.SetReadDeadline(time.Time{}) // set by tell; a closed conn fails its next read too
		_ = p.dst().conn.SetWriteDeadline(time.Time{})
	}
	p.t.rewatch()
}

// linger waits, in a tunnel without a reactor, for the reset of a source behind
// its end of stream. The end of the other direction ends the wait.
func (p *pump) linger() (over bool) {
	reset := p.src().isTCP && p.src().awaitReset()
	return p.t.locked(func() {
		if reset && p.place.at(halfClosed) {
			p.sourceFailed(p.src().failure())
		}
	})
}
