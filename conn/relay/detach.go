package relay

import (
	"errors"
	"os"
	"time"

	"cleversocks/conn/cause"
)

// detachAfter is how many large chunks in a row make a bulk transfer. Each
// round through a reactor costs a look at the sockets more than a goroutine
// that waits for one of them.
const detachAfter = 16

// errQuiet tells a detached pump that its bulk transfer is over.
var errQuiet = errors.New("no bulk transfer any more")

// bulky says whether the chunk that was just delivered continues a bulk
// transfer that deserves a goroutine.
func (p *pump) bulky() bool {
	if !p.splicing || p.small > 0 {
		p.streak = 0
		return false
	}
	p.streak++
	return p.streak >= detachAfter
}

// detach moves the pump from its reactor to a goroutine, as long as the bulk
// transfer lasts. The caller holds s.pumps.
func (p *pump) detach() {
	p.streak = 0
	p.where.set(inBulk)
	p.s.callbacks.Add(1)
	p.s.rewatchPumps()
	go p.runDetached()
}

// runDetached is the goroutine of a bulk transfer.
func (p *pump) runDetached() {
	if p.ride() {
		p.s.finish()
	}
}

// ride moves the pump until it goes to its reactor, or ends. It says whether
// the relay has ended with it.
func (p *pump) ride() (last bool) {
	defer p.s.callbacks.Done()
	defer func() { last = p.attach() }()
	defer p.s.guard()
	defer func() { p.settleGrant(0) }()
	p.move()
	return false
}

// attach brings the pump to its reactor, or ends it. It says whether the relay
// has ended with it.
func (p *pump) attach() (last bool) {
	p.s.pumps.Lock()
	defer func() { last = p.s.release(recover()) }()
	told := p.where.at(leaving)
	p.where.set(atReactor)
	if !p.quiet || told {
		p.halt()
		p.checkReset() // no turn has looked while the goroutine was there
		p.endSeen()
		return false
	}
	p.quiet = false
	p.abandon()
	_ = p.src.conn.SetReadDeadline(time.Time{}) // set by fold; a closed conn fails its next read too
	p.s.rewatchPumps()
	return false
}

// becomesQuiet says whether err means that a detached pump is to attach.
func (p *pump) becomesQuiet(err error) bool {
	p.quiet = p.where.ridden() && (errors.Is(err, errQuiet) || errors.Is(err, os.ErrDeadlineExceeded))
	return p.quiet
}

// rewatchPumps is watchPumps for a relay that cannot do without its reactor.
// The caller holds s.pumps.
func (s *session) rewatchPumps() {
	if !s.watchPumps() { // for want of memory, and then a relay is lost
		s.note(verdict{rank: rankFinal, cause: cause.Error, err: errWatch, abort: true})
		s.halt()
	}
}

var errWatch = errors.New("relay lost its reactor")

// fold has detached pumps attach once they have nothing to do.
func (s *session) fold() {
	s.pumps.Lock()
	defer s.released()
	for _, p := range []*pump{&s.in, &s.out} {
		if p.where.ridden() {
			_ = p.src.conn.SetReadDeadline(past())
		}
	}
}
