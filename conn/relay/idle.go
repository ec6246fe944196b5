package relay

import (
	"time"

	"cleversocks/conn/cause"
)

// idleChecks is how often there is a look in one idle timeout.
const idleChecks = 4

// idleCheck compares the byte counts at each check with those of the check
// before, so that moving bytes never touches a clock.
type idleCheck struct {
	bytes int64         // moved both ways at the last check
	quiet time.Duration // for how long nothing has happened
}

func (t *Tunnel) idleStep() time.Duration { return max(t.o.Idle/idleChecks, time.Millisecond) }

// idleWait is how long the check that is due waits.
func (t *Tunnel) idleWait() time.Duration {
	if t.early {
		return bareAfter
	}
	return t.idleStep()
}

// startIdleChecks starts the idle timeout. The first check of a reactor's tunnel
// comes early, to make it one that lasts. The caller holds t.mu.
func (t *Tunnel) startIdleChecks() {
	if t.o.Idle <= 0 && t.reactor == nil {
		return
	}
	t.early = t.reactor != nil && (t.o.Idle <= 0 || bareAfter < t.idleStep())
	t.awaitCheck()
}

// awaitCheck has the next check come. The caller holds t.mu.
func (t *Tunnel) awaitCheck() {
	t.callbacks.Add(1)
	t.o.Pools.clockOf().meet(t, t.idleWait())
}

// stopIdleChecks is for a tunnel that is closing: no check starts another one.
func (t *Tunnel) stopIdleChecks() {
	if c := t.waits.clock; c != nil && c.miss(t, t.idleWait()) {
		t.callbacks.Done()
	}
}

// checkIdle ends a tunnel that was silent for too long. One that was silent for
// a while gets its pumps back from their goroutines. Ends that no goroutine needs
// become bare.
func (t *Tunnel) checkIdle() {
	defer t.callbacks.Done()
	over := t.locked(func() {
		if t.closing {
			return
		}
		t.strip()
		if t.lasts != nil {
			t.server.control(t.lasts)
			t.lasts = nil // its memory is free
		}
		if t.o.Idle <= 0 {
			return
		}
		t.countSilence()
		if t.idle.quiet >= t.o.Idle {
			t.note(&verdict{rank: rankFinal, cause: cause.Idle})
			t.halt()
			return
		}
		if t.idle.quiet > 0 {
			t.in.recall()
			t.out.recall()
		}
		t.early = false
		t.awaitCheck()
	})
	if over {
		t.finishLater()
	}
}

// countSilence looks at what has happened since the last check. A slow peer
// that drains its queue without making room for a write is alive too. A pause
// of the meter's is no silence of the peers', and no sign of life either.
func (t *Tunnel) countSilence() {
	bytes := t.counters.In.Load() + t.counters.Out.Load()
	queued := int32(t.client.queued() + t.server.queued())
	switch {
	case bytes != t.idle.bytes || queued != t.queued:
		t.idle.quiet = 0
	case !t.in.place.at(paused) && !t.out.place.at(paused):
		t.idle.quiet += t.idleWait()
	}
	t.idle.bytes, t.queued = bytes, queued
}
