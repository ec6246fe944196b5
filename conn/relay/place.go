package relay

import "sync/atomic"

// place is where a pump is: who moves it, if anybody does. ARCHITECTURE.md draws
// the ways between them. It changes under s.pumps, and only begin, pauseTurns,
// resume, detach, attach and halt change it.
type place uint32

const (
	atReactor place = iota // the reactor gives it turns
	paused                 // the meter holds it up, for its reactor
	inBulk                 // a goroutine moves a bulk transfer
	leaving                // that goroutine is told to end the pump
	alone                  // a goroutine moves it to its end: there is no reactor
	ended                  // nobody moves it any more
)

// String is the place's name in tests and traces.
func (p place) String() string {
	return [...]string{"at its reactor", "paused", "in bulk", "leaving", "alone", "ended"}[p]
}

// whereabouts holds a pump's place. Its own goroutine may look without s.pumps.
type whereabouts struct{ is atomic.Uint32 }

func (w *whereabouts) now() place      { return place(w.is.Load()) }
func (w *whereabouts) set(to place)    { w.is.Store(uint32(to)) }
func (w *whereabouts) ridden() bool    { return w.now() == inBulk || w.now() == leaving }
func (w *whereabouts) at(p place) bool { return w.now() == p }
