package relay

import "sync/atomic"

// place says who moves a pump, if anybody does. ARCHITECTURE.md draws the
// transitions. It changes under the tunnel's lock; only the pump's own goroutine
// reads it without.
type place uint32

const (
	atReactor   place = iota // its reactor moves it when one of its sockets is ready
	paused                   // the meter holds it up, and a timer moves it on
	onGoroutine              // a goroutine of its own moves it
	recalled                 // that goroutine is told to give it back to the reactor
	ending                   // that goroutine is told to end it
	halfClosed               // the end of stream is passed on; the source may still be reset
	ended                    // nobody moves it any more
)

// String is the place's name in tests and traces.
func (p place) String() string {
	return [...]string{"at its reactor", "paused", "on a goroutine", "recalled", "ending", "half-closed", "ended"}[p]
}

// whereabouts holds a pump's place.
type whereabouts struct{ is atomic.Uint32 }

func (w *whereabouts) now() place      { return place(w.is.Load()) }
func (w *whereabouts) set(to place)    { w.is.Store(uint32(to)) }
func (w *whereabouts) at(p place) bool { return w.now() == p }

// hasGoroutine says whether a goroutine moves the pump, which then nobody else
// may touch.
func (w *whereabouts) hasGoroutine() bool {
	switch w.now() {
	case onGoroutine, recalled, ending:
		return true
	case atReactor, paused, halfClosed, ended:
	}
	return false
}

// halt ends both pumps now. The caller holds t.mu.
func (t *Tunnel) halt() {
	t.in.halt()
	t.out.halt()
}

// halt ends the pump, or has its goroutine do so. The caller holds t.mu.
func (p *pump) halt() {
	if p.place.hasGoroutine() {
		p.tell(ending)
		return
	}
	p.end()
}

// tell has the pump's goroutine end its work, and wakes it if it waits. The
// caller holds t.mu.
func (p *pump) tell(what place) {
	p.place.set(what)
	_ = p.src().conn.SetReadDeadline(past()) // fails on a closed conn, where nobody waits
	_ = p.dst().conn.SetWriteDeadline(past())
}

// end is the last thing that happens to a pump. A half-closed opposite pump
// ends with it: there is nobody left whom a reset would interest. The caller
// holds t.mu, and no goroutine moves the pump.
func (p *pump) end() {
	was := p.place.now()
	p.place.set(ended)
	p.returnGrant(0)
	p.abandon()
	switch {
	case was == paused && p.booking.pause.Stop():
		p.t.callbacks.Done()
	case was == halfClosed && p.t.reactor == nil:
		_ = p.src().conn.SetReadDeadline(past()) // wakes the goroutine that waits for a reset
	}
	if other := p.opposite(); other.place.at(halfClosed) {
		other.end()
	}
}
