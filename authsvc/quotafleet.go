package authsvc

import (
	"math"
	"sync/atomic"
	"time"
)

// In a fleet a replica moves no more of a quota than a part of what is left, before
// it hears what others have moved meanwhile: else each would spend all that is left,
// as fast as it can.

// quotaFleet is what all users' counts know of the fleet. The zero value is of none.
type quotaFleet struct {
	replicas atomic.Int64
	wanted   chan struct{} // 1: somebody waits for the fleet's word
}

// unheard is what the fleet has not heard yet of one user.
type unheard struct {
	own   int64     // of this process's own, as the fleet knows it
	room  int64     // beyond that, until the fleet's next word
	at    time.Time // of its last word; zero: there was none
	asked time.Time // when somebody began to wait for it; zero: nobody does
}

const (
	// roomParts is how many parts of what is left all replicas together leave unspent
	// while they wait: each may spend its share of one.
	roomParts = 4
	// leastRoom may move in any case, so that the last bytes of a quota do not cost a
	// call each.
	leastRoom = 32 << 10
	// roomLife is how long a room lasts. Others may have spent what was left then.
	roomLife = 4 * time.Second
	// roomPatience is how long somebody waits for a fleet that does not answer. Then
	// what is known here has to do, until it does.
	roomPatience = 500 * time.Millisecond
)

// room is how much may be booked until the fleet has to be heard. The caller holds
// the lock.
func (u *Usage) room(now time.Time) int64 {
	if u.fleet == nil || u.fleet.replicas.Load() <= 1 {
		return math.MaxInt64
	}
	room := u.unheard.room
	if now.Sub(u.unheard.at) > roomLife {
		room = leastRoom
	}
	if left := room - (u.used - u.elsewhere - u.unheard.own) - u.booked; left > 0 {
		return left
	}
	if u.unheard.asked.IsZero() {
		u.unheard.asked, u.toldAt = now, time.Time{}
		select {
		case u.fleet.wanted <- struct{}{}:
		default:
		}
	}
	if now.Sub(u.unheard.asked) > roomPatience {
		return math.MaxInt64
	}
	return 0
}

// heard begins anew: the fleet knows of own, and has said what is left. The caller
// holds the lock.
func (u *Usage) heard(own int64) {
	replicas := max(u.fleet.replicas.Load(), 1)
	u.unheard = unheard{own: own, room: max((u.limit-u.used)/(roomParts*replicas), leastRoom), at: time.Now()}
}

// Among says how many replicas there are; 1 or less: this one alone.
func (q *Quotas) Among(replicas int) { q.fleet.replicas.Store(int64(replicas)) }

// Wanted gets a value when somebody waits for the fleet's word: Shares names who.
func (q *Quotas) Wanted() <-chan struct{} { return q.fleet.wanted }
