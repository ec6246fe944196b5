package relay

import (
	"errors"
)

// chunksPerTurn bounds what a pump moves before other relays get their turn:
// 1 MiB by splice.
const chunksPerTurn = 4

// readiness is what a pump may go on with.
type readiness uint8

const (
	readable readiness = 1 << iota // the source may have bytes
	writable                       // the destination may have room
	hungUp                         // the destination may have been reset
)

// turn advances the pumps that may have work, in a reactor's relay. It returns
// what those that used up their turn go on with in another, and whether the
// caller has to finish the relay.
func (s *session) turn(in, out readiness) (againIn, againOut readiness, over bool) {
	s.pumps.Lock()
	defer func() { over = s.release(recover()) }()
	if !s.watched {
		return 0, 0, false // it could not join after all
	}
	againIn, againOut = s.in.advance(in), s.out.advance(out)
	// A pump that reads meets a reset by itself; one that has ended does not.
	if in&hungUp != 0 {
		s.out.checkReset()
	}
	if out&hungUp != 0 {
		s.in.checkReset()
	}
	return againIn, againOut, false
}

// released is release for a caller that cannot finish the relay itself, since
// that waits for it.
func (s *session) released() {
	if s.release(recover()) {
		go s.finish()
	}
}

// release releases s.pumps after some work on them, which panicked with v if it
// is not nil. It says whether the caller has to finish the relay.
func (s *session) release(v any) (over bool) {
	if v != nil {
		s.note(panicVerdict(v))
		s.halt()
	}
	over = s.reactor != nil && s.in.where.at(ended) && s.out.where.at(ended) && !s.finishing
	s.finishing = s.finishing || over
	if v != nil && s.o.Panicked != nil {
		// Under the lock: once it is free, another pump may end the relay, and
		// it is done with before its owner has been told.
		s.o.Panicked(v)
	}
	s.pumps.Unlock()
	return over
}

// halt ends both pumps now. The caller holds s.pumps.
func (s *session) halt() {
	s.wakePaused()
	s.in.halt()
	s.out.halt()
}

// haltFrom is halt for a pump that may be on a goroutine, where it does not
// hold s.pumps.
func (s *session) haltFrom(p *pump) {
	if p.where.ridden() {
		s.pumps.Lock()
		defer s.pumps.Unlock() // p has not ended yet: the relay has not either
	}
	s.halt()
}

// halt ends the pump now, or has its goroutine do so. The caller holds
// s.pumps.
func (p *pump) halt() {
	if p.where.ridden() {
		p.where.set(leaving)
		_ = p.src.conn.SetReadDeadline(past())
		_ = p.dst.conn.SetWriteDeadline(past())
		return
	}
	was := p.where.now()
	p.where.set(ended)
	p.settleGrant(0)
	p.abandon()
	if was == paused && p.pause.Stop() {
		p.s.pausing.Add(-1)
		p.s.callbacks.Done()
	}
}

// initTurns readies the pump for a reactor.
func (p *pump) initTurns() {
	p.tryRead = func(fd uintptr) { p.went = p.onReadable(fd) }
	p.tryWrite = func(fd uintptr) { p.went = p.onWritable(fd) }
}

// advance moves chunks until one end would block or the turn is used up; then
// it returns that it could go on. The caller holds s.pumps.
func (p *pump) advance(ready readiness) readiness {
	if !p.where.at(atReactor) {
		return 0
	}
	if p.left == 0 && ready&readable == 0 || p.left > 0 && ready&writable == 0 {
		return 0
	}
	for range chunksPerTurn {
		if !p.where.at(atReactor) || !p.step() {
			return 0
		}
		if p.bulky() {
			p.detach()
			return 0
		}
	}
	return readable
}

// step moves one chunk, or what is left of it.
func (p *pump) step() bool {
	if p.left == 0 {
		if err := p.try(p.src, p.tryRead); err != nil {
			p.receiveFailed(err)
			return false
		}
		if !p.went {
			return false
		}
	}
	p.dst.writing.Store(true)
	if err := p.try(p.dst, p.tryWrite); err != nil {
		p.destinationFailed(err)
		p.halt()
		return false
	}
	p.dst.writing.Store(false)
	if !p.went && !p.blocks {
		p.blocks = true
		p.s.rewatchPumps()
	}
	return p.went
}

// receiveFailed ends the pump, or has it pause. The caller holds s.pumps.
func (p *pump) receiveFailed(err error) {
	if errors.Is(err, errPaused) {
		p.pauseTurns(p.wait)
		return
	}
	if said, ok := errors.AsType[meterError](err); ok {
		p.s.note(meterVerdict(said.error))
		p.s.halt()
		return
	}
	p.sourceEnded(err)
	p.halt()
	p.checkReset() // its event may have come with that of the end
	p.endSeen()
}

func (p *pump) try(e *end, f func(uintptr)) error {
	if err := e.raw.Control(f); err != nil {
		return err
	}
	err := p.err
	p.err = nil
	return err
}
