package relay

import (
	"errors"
	"io"
	"os"
	"syscall"

	"cleversocks/conn/cause"
)

// conclude does what follows from a step that moved nothing, in a pump that no
// goroutine moves. The caller holds t.mu.
func (p *pump) conclude(o outcome, err error) {
	switch o {
	case moved, wantsBytes: // the reactor always waits for bytes
	case wantsRoom:
		p.t.watchForRoom(p.dst())
	case wantsGrant:
		p.pause()
	case meterRefused:
		p.t.note(meterVerdict(err))
		p.t.halt()
	case sourceOver:
		p.sourceEnded(err)
	case destinationOver:
		p.destinationFailed(err)
	}
}

// sourceEnded is for a source that says nothing more. The caller holds t.mu.
func (p *pump) sourceEnded(err error) {
	switch {
	case interrupted(err):
		p.end()
	case !errors.Is(err, io.EOF):
		p.sourceFailed(err)
	case p.wasReset():
		p.sourceFailed(syscall.ECONNRESET)
	default:
		p.noteClosed()
		p.passEnd()
	}
}

// noteClosed records that the source has ended its stream. The caller holds
// t.mu.
func (p *pump) noteClosed() {
	if p.dir == In {
		p.t.note(&clientClosed)
	} else {
		p.t.note(&serverClosed)
	}
}

// passEnd tells the destination that nothing more comes. The caller holds t.mu.
func (p *pump) passEnd() {
	other := p.opposite()
	switch {
	case !p.dst().isSocket() && !p.dst().finSent.Load():
		p.t.halt() // passEndWaiting could not: such a conn knows no half-close
		return
	case other.place.at(halfClosed):
		p.end() // all is delivered: the close that follows says it
		return
	case p.dst().isSocket():
		p.dst().closeWrite()
	}
	p.place.set(halfClosed)
	p.returnGrant(0)
	p.abandon()
	if !p.calm {
		p.checkReset() // what tells of it may have come with the end of stream
	}
	if p.dir == In && other.place.at(paused) {
		other.probe()
	}
	if other.place.at(ended) && !p.place.at(ended) {
		p.end()
	}
}

// sourceFailed ends the tunnel for a reset of the source, or another failure.
// Nothing can reach the source any more, so the other direction ends as well.
// The caller holds t.mu.
func (p *pump) sourceFailed(err error) {
	why := p.pick(cause.ClientReset, cause.ServerReset)
	if bad, ok := errors.AsType[interface {
		error
		Malformed() bool
	}](err); ok && bad.Malformed() {
		why = cause.Error // nobody broke the connection: what came over it cannot be believed
	}
	p.t.note(&verdict{rank: rankFinal, err: err, cause: why})
	p.src().dead = true
	p.t.halt()
}

// destinationFailed records that the destination is gone. What it sent before
// is still to be delivered: the other direction ends by itself when it has been.
// The caller holds t.mu.
func (p *pump) destinationFailed(err error) {
	if !interrupted(err) {
		p.t.note(&verdict{rank: rankFinal, err: err, cause: p.pick(cause.ServerReset, cause.ClientReset)})
		p.dst().dead = true
	}
	p.end()
}

// checkReset is for a pump that does not read: its source may be reset behind
// its end of stream, or while the meter holds the pump up. Then nobody takes
// what the other direction waits for. The caller holds t.mu.
func (p *pump) checkReset() {
	if (p.place.at(paused) || p.place.at(halfClosed)) && p.src().resetBehindEnd() {
		p.sourceFailed(p.src().failure())
	}
}

// wasReset says whether the source's end of stream was a reset in truth: a
// write that meets a reset first takes the socket's error with it, and the next
// read sees a clean end. The caller holds t.mu.
func (p *pump) wasReset() bool {
	if p.src().dead || !p.src().isSocket() || !p.opposite().place.hasGoroutine() {
		return p.src().dead
	}
	// That goroutine may be about to tell. In this order: our own end of
	// stream, sent meanwhile, closes the socket as well.
	return p.src().disconnected() && !p.src().finSent.Load()
}

// interrupted says whether err is our own doing: nobody else sets deadlines.
func interrupted(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// pick chooses by who the source is.
func (p *pump) pick(client, server string) string {
	if p.src() == &p.t.client {
		return client
	}
	return server
}
