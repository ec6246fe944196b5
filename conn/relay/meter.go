package relay

import (
	"time"

	"cleversocks/conn/cause"
)

// Meter decides how many bytes may move before they do. Its methods are called
// on the goroutines of both directions, at the same time, and must return at
// once: other relays may wait for the caller.
type Meter interface {
	// Reserve books up to n bytes of a direction. The granted bytes may move
	// once wait is over; with none granted, wait is when to ask again. An error
	// ends the relay; its cause is that of an *EndError in its chain, else
	// "error".
	Reserve(d Direction, n int) (granted int, wait time.Duration, err error)
	// Settle ends a booking: moved of the granted bytes were taken, and the
	// rest goes back.
	Settle(d Direction, granted, moved int)
}

// Pay books n bytes that are in hand already, and waits for each part of them
// by sleep, whose error ends it.
func Pay(m Meter, d Direction, n int, sleep func(time.Duration) error) error {
	for n > 0 {
		granted, wait, err := m.Reserve(d, n)
		if err != nil {
			return err
		}
		if wait > 0 {
			err = sleep(wait)
		}
		if err != nil {
			m.Settle(d, granted, 0)
			return err
		}
		m.Settle(d, granted, granted)
		n -= granted
	}
	return nil
}

// booking is what the meter has said to a pump.
type booking struct {
	granted int           // bytes booked, and not moved yet
	forEnd  bool          // granted is not booked: it lets an end of stream be read
	unpaid  int           // bytes in hand that are still to be booked, of a source that is no socket
	wait    time.Duration // with wantsGrant: how long nothing may move
	pause   *time.Timer   // ends the wait
	probed  bool          // a byte has gone ahead of its time; see probe
}

// limit is how many bytes the pump may take now, of up to n.
func (p *pump) limit(n int) int {
	if p.booking == nil {
		return n
	}
	return min(n, p.booking.granted)
}

// book sees to it that a chunk may be read from a socket, or says why not. A
// source that has nothing to say waits for no meter: an end of stream gets
// through.
func (p *pump) book(fd uintptr) (outcome, error) {
	b := p.booking
	if b == nil || b.granted > 0 {
		return moved, nil
	}
	want := p.t.o.BufferSize
	if p.large {
		want = pipeSize
	}
	o, failed := p.reserve(want)
	if o == moved {
		return moved, nil
	}
	switch n, errno := peek(fd); {
	case errno == errAgain:
		p.returnGrant(0)
		return wantsBytes, nil
	case errno != 0 || n == 0:
		p.returnGrant(0)
		b.granted, b.forEnd = 1, true // nothing will be taken by it
		return moved, nil             //nolint:nilerr // the end of the source comes before the meter's
	}
	return o, failed
}

// pay books the chunk in hand of a source that is no socket, and cannot be asked
// before it is read.
func (p *pump) pay() (outcome, error) {
	b := p.booking
	for b != nil && b.unpaid > 0 {
		if b.granted == 0 {
			if o, err := p.reserve(b.unpaid); o != moved {
				return o, err
			}
		}
		b.unpaid -= b.granted
		p.returnGrant(b.granted)
	}
	return moved, nil
}

// reserve asks the meter for up to n bytes.
func (p *pump) reserve(n int) (outcome, error) {
	granted, wait, err := p.t.meter.Reserve(p.dir, n)
	if err != nil {
		return meterRefused, err
	}
	p.booking.granted = granted
	if wait <= 0 && granted > 0 {
		return moved, nil
	}
	p.booking.wait = max(wait, time.Millisecond) // a meter that grants nothing is not asked without end
	return wantsGrant, nil
}

// returnGrant ends a booking, n bytes of which were moved.
func (p *pump) returnGrant(n int) {
	b := p.booking
	if b == nil {
		return
	}
	granted, booked := b.granted, b.granted > 0 && !b.forEnd
	b.granted, b.forEnd = 0, false // first: a meter that panics is not asked again
	if booked {
		p.t.meter.Settle(p.dir, granted, n)
	}
}

// meterVerdict ends the tunnel for what the meter said.
func meterVerdict(err error) *verdict {
	return &verdict{rank: rankFinal, cause: causeOf(err, cause.Error), err: err, abort: true}
}

// pause leaves the pump alone until the meter's wait is over. The caller holds
// t.mu.
func (p *pump) pause() {
	if p.left == 0 {
		p.abandon()
	}
	p.t.callbacks.Add(1)
	p.place.set(paused)
	p.booking.pause = time.AfterFunc(p.booking.wait, p.resume)
	if p.dir == Out && p.t.in.place.at(halfClosed) {
		p.probe()
	}
}

// resume goes on after a pause, on the timer's goroutine. What came meanwhile
// was not waited for.
func (p *pump) resume() {
	var in, out readiness
	over := p.t.locked(func() {
		switch {
		case !p.place.at(paused):
		case p.t.reactor == nil:
			p.launch()
		default:
			p.place.set(atReactor)
			ready := readable
			if p.left > 0 {
				ready = writable
			}
			if p.dir == In {
				in = ready
			} else {
				out = ready
			}
		}
	})
	for !over && in|out != 0 {
		in, out, over = p.t.turn(in, out)
	}
	p.t.callbacks.Done()
	if over {
		p.t.finish()
	}
}
