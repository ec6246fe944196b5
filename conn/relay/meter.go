package relay

import (
	"errors"
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

// errPaused tells a pump that its meter lets nothing move for p.wait.
var errPaused = errors.New("paused by the meter")

// meterError marks what the meter said, as against the socket.
type meterError struct{ error }

func (e meterError) Unwrap() error { return e.error }

// limit is how many bytes the pump may take now, of up to n.
func (p *pump) limit(n int) int {
	if p.s.o.Meter == nil {
		return n
	}
	return min(n, p.granted)
}

// book sees to it that a chunk may be read, or says in p.err why not. A source
// that has nothing to say waits for no meter: an end of stream gets through.
func (p *pump) book(fd uintptr) (ok, dry bool) {
	if p.s.o.Meter == nil || p.granted > 0 {
		return true, false
	}
	want := p.s.o.BufferSize
	if p.splicing {
		want = pipeSize
	}
	granted, wait, err := p.s.o.Meter.Reserve(p.dir, want)
	p.granted = granted
	if err == nil && wait <= 0 {
		return true, false
	}
	switch n, errno := peek(fd); {
	case errno == errAgain:
		p.settleGrant(0)
		return false, true
	case errno != 0 || n == 0:
		p.settleGrant(0)
		p.granted = 1 // nothing will be taken by it
		p.unbooked = true
		return true, false
	case err != nil:
		p.err = meterError{err}
	default:
		p.err, p.wait = errPaused, wait
	}
	return false, false
}

// settleGrant gives back what was booked beyond the n bytes that were read.
func (p *pump) settleGrant(n int) {
	if p.granted > 0 && !p.unbooked {
		p.s.o.Meter.Settle(p.dir, p.granted, n)
	}
	p.granted, p.unbooked = 0, false
}

// meterVerdict ends the relay for what the meter said.
func meterVerdict(err error) verdict {
	return verdict{rank: rankFinal, cause: causeOf(err, cause.Error), err: err, abort: true}
}

// sleep waits on the pump's own goroutine. It says whether the relay goes on.
func (p *pump) sleep(wait time.Duration) bool {
	p.abandon() // a paused direction holds nothing
	p.s.pausing.Add(1)
	defer p.s.pausing.Add(-1)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	left := p.clientEnded()
	for {
		select {
		case <-timer.C:
			return true
		case <-p.s.stopped:
			return false
		case <-left:
			p.probe()
			left = nil
		}
	}
}

// pauseTurns has a reactor leave the pump alone for a while. The caller holds
// s.pumps.
func (p *pump) pauseTurns(wait time.Duration) {
	p.abandon()
	p.s.pausing.Add(1)
	p.s.callbacks.Add(1)
	p.where.set(paused)
	p.pause = time.AfterFunc(wait, p.resume)
	p.probeIfLeft()
}

// resume goes on after a pause.
func (p *pump) resume() {
	defer p.s.callbacks.Done()
	p.s.pumps.Lock()
	if p.where.at(paused) {
		p.where.set(atReactor)
	}
	p.s.pumps.Unlock()
	p.s.pausing.Add(-1)
	// What came meanwhile was not waited for.
	var in, out readiness
	if p.dir == In {
		in = readable
	} else {
		out = readable
	}
	for over := false; in|out != 0; {
		if in, out, over = p.s.turn(in, out); over {
			go p.s.finish() // it waits for this callback
		}
	}
}

// payBlocking books the chunk in hand of a source that cannot be asked before
// it is read.
func (p *pump) payBlocking() error {
	if p.s.o.Meter == nil || p.src.raw != nil {
		return nil
	}
	err := Pay(p.s.o.Meter, p.dir, p.left, func(wait time.Duration) error {
		p.s.pausing.Add(1)
		defer p.s.pausing.Add(-1)
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-p.s.stopped:
			return errPaused
		}
	})
	if err != nil && !errors.Is(err, errPaused) {
		return meterError{err}
	}
	return err
}
