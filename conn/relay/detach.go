package relay

import (
	"errors"
	"os"
	"time"
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
	p.detached = true
	p.s.callbacks.Add(1)
	p.s.watchPumps()
	go p.runDetached()
}

// runDetached is the goroutine of a bulk transfer.
func (p *pump) runDetached() {
	defer p.s.callbacks.Done()
	defer p.attach()
	defer p.s.guard()
	p.move()
}

// attach brings the pump back to its reactor, or ends it.
func (p *pump) attach() {
	p.s.pumps.Lock()
	defer p.s.turned()
	p.detached = false
	if !p.quiet || p.halted {
		p.halt()
		return
	}
	p.quiet = false
	p.abandon()
	_ = p.src.conn.SetReadDeadline(time.Time{}) // set by fold; a closed conn fails its next read too
	p.s.watchPumps()
}

// becomesQuiet says whether err means that a detached pump is to attach.
func (p *pump) becomesQuiet(err error) bool {
	p.quiet = p.detached && (errors.Is(err, errQuiet) || errors.Is(err, os.ErrDeadlineExceeded))
	return p.quiet
}

// fold has detached pumps attach that have nothing to do. The caller knows
// that nothing moved for a while.
func (s *session) fold() {
	s.pumps.Lock()
	defer s.turned()
	for _, p := range []*pump{&s.in, &s.out} {
		if p.detached {
			_ = p.src.conn.SetReadDeadline(past())
		}
	}
}
