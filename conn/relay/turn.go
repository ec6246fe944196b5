package relay

// The reactor's driver of pumps. The other one is in goroutine.go.

// chunksPerTurn bounds what a pump moves before other tunnels get their turn:
// 1 MiB by splice.
const chunksPerTurn = 4

// readiness is what a pump may go on with.
type readiness uint8

const (
	readable  readiness = 1 << iota // the source may have bytes
	writable                        // the destination may have room
	hungUp                          // the destination may have been reset
	justBytes                       // with readable: bytes have come, and no end of stream or urgent byte behind them
	calm                            // with readable: the source was not reset, and if it is, an event will tell
)

// turn moves the pumps that may have something to do, in a reactor's tunnel. It
// returns what those that used up their turn go on with in the next one, and
// whether the caller has to finish the tunnel.
func (t *Tunnel) turn(in, out readiness) (againIn, againOut readiness, over bool) {
	over = t.locked(func() {
		if t.reactor == nil {
			return // it could not join after all
		}
		againIn, againOut = t.in.advance(in), t.out.advance(out)
		// A pump that reads meets a reset by itself; one that does not is
		// told by what its opposite writes to.
		if in&hungUp != 0 {
			t.out.checkReset()
		}
		if out&hungUp != 0 {
			t.in.checkReset()
		}
	})
	return againIn, againOut, over
}

// advance takes steps until one cannot go on or the turn is used up: then it
// returns that there may be more to read. The caller holds t.mu.
func (p *pump) advance(ready readiness) readiness {
	if !p.place.at(atReactor) {
		return 0
	}
	awaited := readable
	if p.left > 0 {
		awaited, ready = writable, ready&^justBytes
	}
	if ready&awaited == 0 {
		return 0
	}
	p.calm = ready&calm != 0
	for range chunksPerTurn {
		if o, err := p.step(); o != moved {
			p.conclude(o, err)
			return 0
		}
		if ready&justBytes != 0 && p.tookAll() {
			p.abandon()
			return 0
		}
		if p.bulky() && p.t.dress() {
			p.launch()
			p.t.rewatch()
			return 0
		}
	}
	return readable
}
