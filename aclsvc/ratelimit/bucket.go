package ratelimit

import (
	"sync"
	"sync/atomic"
	"time"
)

// Bucket spreads bytes over time: a burst at once, then the rate. All
// connections of a user share it, and each books what it is about to move, so
// that short connections pay like long ones. The zero value limits nothing.
type Bucket struct {
	rate  atomic.Int64 // bytes a second, for this process; 0: no limit
	burst atomic.Int64 // ns that a user may be ahead of the rate; 0: defaultBurst

	moved atomic.Int64 // bytes booked since the last use

	mu    sync.Mutex
	due   time.Time // when all that was booked will have moved, at the rate
	full  int64     // the rate, for all processes
	waits time.Time // until when the last one who had to wait does
	// others is what other processes want; used is an average, as of looked.
	others Use
	used   float64
	looked time.Time
}

const (
	// DefaultBurst is how far ahead of the rate a user may be.
	DefaultBurst = 500 * time.Millisecond
	// queue bounds how long a booking waits, whatever the user's other
	// connections have booked: each takes at most half of what is left of it. A
	// keystroke beside a download comes through in that time.
	queue = 250 * time.Millisecond
	// unnoticed is a wait that is not worth a timer: who comes too late for one
	// loses nothing, since what is due goes by the rate.
	unnoticed = 2 * time.Millisecond
	// leastBooking is what one may always book, in bytes, of rates that move it
	// in a moment.
	leastBooking = 64
	// pace is the share of the rate that bookings are spaced by. Any ten seconds then
	// carry the rate within 3 %: 2 % less at a steady flow, and at most 3 % more where
	// a burst of half a second is among them.
	pace = 0.98
)

// Set changes the rate, in bytes a second; 0 or less: no limit. What was booked
// before counts no further.
func (b *Bucket) Set(rate int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if rate = max(rate, 0); b.full != rate {
		b.full, b.due = rate, time.Time{}
	}
	b.rate.Store(b.share())
}

// SetBurst changes how far ahead of the rate a user may be; 0: DefaultBurst.
func (b *Bucket) SetBurst(d time.Duration) { b.burst.Store(int64(d)) }

// ahead is how long ago the oldest unused bytes were due: the burst, less what
// a booking in time may take beyond it.
func (b *Bucket) ahead() time.Duration {
	burst := time.Duration(b.burst.Load())
	if burst <= 0 {
		burst = DefaultBurst
	}
	return max(burst-queue/2, 0)
}

// Reserve books up to n bytes, at least one of them, to be moved after wait.
// Settle gives back what did not move.
func (b *Bucket) Reserve(n int) (granted int, wait time.Duration) {
	rate := b.rate.Load()
	if rate == 0 || n <= 0 {
		return n, 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.catchUp()
	wait = max(b.due.Sub(now), 0)
	room := max(queue-wait, 0)/2 + max(now.Sub(b.due), 0)
	least := min(max(rate/16, 1), leastBooking)
	granted = int(min(int64(n), max(int64(room.Seconds()*float64(rate)*pace), least)))
	b.due = b.due.Add(at(rate, int64(granted)))
	b.moved.Add(int64(granted))
	if wait < unnoticed {
		wait = 0
	} else {
		b.waits = now.Add(wait)
	}
	return granted, wait
}

// Settle ends a booking of which moved bytes were used.
func (b *Bucket) Settle(granted, moved int) {
	rate := b.rate.Load()
	if rate == 0 || granted == moved {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.due.IsZero() { // else the rate changed meanwhile
		b.due = b.due.Add(-at(rate, int64(granted-moved)))
		b.moved.Add(int64(moved - granted))
	}
}

// Take counts n bytes that are about to move, if they may now; else they are
// to be dropped, and count for nothing. It stands in the same queue as
// bookings, so that downloads do not starve datagrams.
func (b *Bucket) Take(n int64) bool {
	rate := b.rate.Load()
	if rate == 0 {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.catchUp()
	if b.due.Sub(now) > queue {
		b.waits = now
		return false
	}
	b.due = b.due.Add(at(rate, n))
	b.moved.Add(n)
	return true
}

// catchUp forgets bytes that were not used for longer than the burst, and gives
// the time. The caller holds the lock.
func (b *Bucket) catchUp() (now time.Time) {
	now = time.Now()
	if earliest := now.Add(-b.ahead()); b.due.Before(earliest) {
		b.due = earliest
	}
	return now
}

// at is the time that n bytes take at the rate. It is bounded, so that nothing
// overflows.
func at(rate, n int64) time.Duration {
	return time.Duration(min(float64(n)/(float64(rate)*pace), 3600) * float64(time.Second))
}
