package shared

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// fleet is what is known of the other replicas.
//
// Half of what a user may have is shared evenly among the replicas, and each may
// use its part, the floor, without asking. Others reckon with it: so a replica may
// have a floor, or a larger one, only when all others know of that, and when it
// knows of each user of whom nobody must use one. That is how it is sure:
//
//   - Who sees another fleet than before has news. Before its next beat it asks
//     for what it holds in that fleet, by which the store says who is strict, and
//     names these users to all.
//   - Who wants a floor waits until all others have beaten, and so have seen the
//     fleet as it is now; and until they have beaten once more, and so have named
//     who is strict. Then it puts a mark into the events: when it reads that, it
//     has read them all.
type fleet struct {
	mu       sync.Mutex
	seen     [3]int        // how many replicas there were at the last beats, this one included
	newest   string        // of them
	beaten   time.Duration // the last beat that was answered; 0: none was
	at       int64         // its time by the store's clock, ms
	floors   int           // how many replicas the floor is one's part of; 0: this one has none
	settling settling
	news     bool
	wiped    memory
	first    time.Duration // when the first lease of another ends; 0: there is none
	changed  chan struct{} // 1: beat now
}

// memory is how many replicas there were when the store lost all of them, wiped or
// failed over to an empty one. Until they have come back it seems that there are
// fewer, or this one alone. The zero value: nothing was lost.
type memory struct {
	count int           // those that have come since included
	seen  int64         // when that was so, by the store's clock
	until time.Duration // the leases of those that do not come back have ended
}

// settling is the way to a floor, or to a larger one.
type settling struct {
	since  int64 // by the store's clock, when it began or all had beaten; 0: it is not under way
	rounds int   // how often all have beaten
	most   int   // replicas that were seen meanwhile
	marked time.Duration
}

// settleRounds is how often all others have to beat.
const settleRounds = 2

// count is how many replicas there are.
func (f *fleet) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return max(f.seen[0], 1)
}

// floor is how many connections of a user this replica may hold without the
// store's word.
func (f *fleet) floor(s *Store, most int) int {
	now := s.now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.floors == 0 || now > f.beaten+s.rhythm.lease {
		return 0
	}
	return most / 2 / f.floors
}

// reckoned is what a replica reckons with: the floor of each, by the fewest that
// there were lately, and how many there are. While it does not know which floor
// the others go by, that is the most which all of them together may have.
func (f *fleet) reckoned(most int) (floor, replicas int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.beaten == 0:
		return most / 2, 1 << 20
	case f.floors == 0:
		return most / 2, f.seen[0]
	}
	return most / 2 / max(slices.Min(f.seen[:]), 1), f.seen[0]
}

// mayHaveFloor reports whether any replica has a floor of a user.
func (f *fleet) mayHaveFloor(most int) bool {
	floor, _ := f.reckoned(most)
	return floor > 0
}

// joins reckons with one more replica, which has just said that it comes, and when it
// was on the list before, if ever. One that comes again, since the store has lost it,
// is reckoned with already, and so is who has been seen before it was heard.
func (f *fleet) joins(r rhythm, id string, before int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := cmp.Or(f.wiped.seen, f.at)
	if id != f.newest && before <= known-r.lease.Milliseconds() {
		f.sees(f.seen[0] + 1)
		if f.wiped.count > 0 {
			f.wiped.count++
		}
	}
	f.kick()
}

// sees is a count of replicas. Floors shrink at once.
func (f *fleet) sees(count int) {
	f.seen[2], f.seen[1], f.seen[0] = f.seen[1], f.seen[0], count
	if f.floors > 0 {
		f.floors = max(f.floors, count)
	}
}

// comeBack has the replica say at once what it holds, since the store may have
// lost it.
func (f *fleet) comeBack() { f.kick() }

func (f *fleet) kick() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// beatOfFleet is the answer to a beat.
type beatOfFleet struct {
	count    int
	was      bool          // on the list
	now      int64         // ms of the store's clock
	ignorant int           // others who have not beaten since a time that it named
	first    time.Duration // until the first lease of another ends; 0: there is none
	newest   string
	out      []string // lists of users whom others put out, by name
	stored   bool     // the own list
}

func beatOf(list []rueidis.RedisMessage, err error) (got beatOfFleet, _ error) {
	if err != nil {
		return got, err
	}
	if len(list) != 8 {
		return got, errAnswer
	}
	n, err := numbers(list[:5])
	newest, err2 := list[5].ToString()
	out, err3 := list[6].AsStrSlice()
	stored, err4 := list[7].AsInt64()
	if err = errors.Join(err, err2, err3, err4); err != nil {
		return got, err
	}
	return beatOfFleet{
		count: max(int(n[0]), 1), was: n[1] == 1, now: n[2], ignorant: int(n[3]), first: time.Duration(n[4]) * time.Millisecond,
		newest: newest, out: out, stored: stored == 1,
	}, nil
}

// noted takes the answer to a beat that was sent at a time. isNew: the replica was
// not on the list; before is when it was last, by the store's clock, 0: never.
func (f *fleet) noted(r rhythm, sent time.Duration, got beatOfFleet) (isNew bool, before int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	count, before := f.seen[0], f.at
	if !got.was && before != 0 {
		f.wiped = memory{count: count, seen: before, until: sent + r.lease}
		f.settling = settling{} // names of users who are strict may be lost: all send them again
	}
	missing := f.remember(sent, &got)
	if f.beaten == 0 || sent > f.beaten+r.lease {
		// The others have not reckoned with it, or do no more.
		f.seen, f.floors, f.settling = [3]int{got.count, got.count, got.count}, 0, settling{}
	} else {
		f.sees(got.count)
	}
	if got.newest != f.newest || got.count != count {
		f.news = true
		f.kick()
	}
	f.newest, f.beaten, f.at, f.first = got.newest, max(sent, 1), got.now, 0
	if got.first > 0 {
		f.first = sent + got.first
	}
	f.settle(got, missing)
	return !got.was, before
}

// remember corrects the count of a store that has lost replicas, and reports whether
// some of them are missing still.
func (f *fleet) remember(sent time.Duration, got *beatOfFleet) (missing bool) {
	if got.count >= f.wiped.count || sent >= f.wiped.until {
		f.wiped = memory{}
		return false
	}
	got.count = f.wiped.count
	return true
}

// settle goes on with the way to a larger floor. Those who are missing have not
// beaten.
func (f *fleet) settle(got beatOfFleet, missing bool) {
	way := &f.settling
	switch {
	case got.count == 1: // there is nobody to agree with
		f.floors, *way = 1, settling{}
	case way.since == 0 && (f.floors == 0 || got.count < f.floors):
		*way = settling{since: got.now, most: got.count}
	case way.since != 0:
		way.most = max(way.most, got.count)
		if got.ignorant == 0 && !missing && way.rounds < settleRounds {
			way.rounds, way.since = way.rounds+1, got.now
		}
	}
}

// markDue is the name of the mark that is to be sent now, if one is.
func (f *fleet) markDue(now time.Duration) (name string, due bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	way := &f.settling
	if way.rounds < settleRounds || way.marked != 0 && now < way.marked+time.Second {
		return "", false
	}
	way.marked = now
	return itoa(way.since), true
}

// readMark is the mark, read among the events.
func (f *fleet) readMark(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.settling.rounds == settleRounds && itoa(f.settling.since) == name {
		f.floors, f.settling = max(f.settling.most, f.seen[0]), settling{}
	}
}

// pause is how long to wait for the next beat: a whole one, or less while the
// replica has no floor yet, or when another's lease is about to end: what that one
// held and was entitled to is free then.
func (f *fleet) pause(whole, now time.Duration) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.beaten != 0 && f.floors == 0:
		return leastPause
	case f.first > 0:
		return min(whole, max(f.first-now, 0)+time.Millisecond)
	}
	return whole
}

// since is the time that a beat asks for who has beaten since; 0: none.
func (f *fleet) since() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.settling.since
}

func (f *fleet) hasNews() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.news
}

func (f *fleet) newsSpread() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.news = false
}
