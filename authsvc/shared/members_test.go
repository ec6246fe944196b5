package shared

import (
	"testing"
	"time"
)

// lone is a fleet of so many, as one of them knows it, whose answers a test makes up.
type lone struct {
	*fleet
	t     *testing.T
	at    time.Duration
	store int64 // the store's clock at the start
}

func newLone(t *testing.T, count int) *lone {
	t.Helper()
	f := &lone{fleet: &fleet{changed: make(chan struct{}, 1)}, t: t, store: 1_700_000_000_000}
	f.beat(0, false, count, "me")
	for range settleRounds {
		f.beat(3*time.Second, true, count, "me")
	}
	if count > 1 {
		name, due := f.markDue(f.at)
		if !due {
			t.Fatal("no mark is due")
		}
		f.readMark(name)
	}
	f.want(count, count)
	return f
}

// beat is a beat some time after the one before.
func (f *lone) beat(later time.Duration, was bool, count int, newest string) (isNew bool, before int64) {
	f.at += later
	return f.noted(usual, f.at, beatOfFleet{count: count, was: was, now: f.clock(), newest: newest})
}

func (f *lone) clock() int64 { return f.store + f.at.Milliseconds() }

// want checks how many replicas are reckoned with, and how many share the floor.
func (f *lone) want(count, floors int) {
	f.t.Helper()
	if f.count() != count || f.floors != floors {
		f.t.Errorf("after %s: %d replicas and %d floors, want %d and %d", f.at, f.count(), f.floors, count, floors)
	}
}

// The first replica that finds the store wiped took itself for the only one, until
// the others had beaten: half of each cap was its own, beside theirs.
func TestWipedStoreSeenFirst(t *testing.T) {
	f := newLone(t, 3)
	if isNew, before := f.beat(3*time.Second, false, 1, "me"); !isNew || before != f.clock()-3000 {
		t.Errorf("new: %v, on the list before at %d", isNew, before-f.store)
	}
	f.want(3, 3)
	if floor, replicas := f.reckoned(30); floor != 5 || replicas != 3 {
		t.Errorf("it reckons with %d replicas of %d each", replicas, floor)
	}
	f.joins(usual, "b", f.clock()-2000)
	f.want(3, 3)
	f.beat(100*time.Millisecond, true, 2, "b")
	f.want(3, 3)
	f.beat(100*time.Millisecond, true, 3, "c")
	f.want(3, 3)
	f.beat(3*time.Second, true, 2, "c") // all were there again: this is news, and no gap
	if f.count() != 2 {
		t.Errorf("one has left, and there are %d", f.count())
	}
}

// A replica that hears of another's return before its own next beat counted it
// twice, and remembered that: a part of each cap was kept for a replica that did not
// exist. In the chaos test a place was missing.
func TestWipedStoreHeardFirst(t *testing.T) {
	f := newLone(t, 3)
	f.at += 2 * time.Second
	f.joins(usual, "b", f.clock()-2500)
	f.joins(usual, "c", f.clock()-100)
	f.want(3, 3)
	f.beat(0, false, 3, "me")
	f.want(3, 3)
}

// Those who do not come back are reckoned with until their leases have ended, and who
// is new besides is one more.
func TestWipedStoreAndOthersGone(t *testing.T) {
	f := newLone(t, 3)
	f.beat(3*time.Second, false, 1, "me")
	f.joins(usual, "new", 0)
	f.want(4, 4)
	f.beat(100*time.Millisecond, true, 2, "new")
	f.want(4, 4)
	f.joins(usual, "new", 0) // seen before it was heard
	f.want(4, 4)
	for range 3 {
		f.beat(3*time.Second, true, 2, "new")
		f.want(4, 4)
	}
	f.beat(3*time.Second, true, 2, "new")
	if f.count() != 2 {
		t.Errorf("leases have ended, and it reckons with %d", f.count())
	}
}

// A store that was away for longer than a lease, and is another one now that knows
// nobody: the replicas wait for each other before one has a floor.
func TestEmptyStoreAfterOutage(t *testing.T) {
	f := newLone(t, 3)
	last := f.clock()
	f.beat(time.Minute, false, 1, "me")
	f.want(3, 0)
	f.beat(100*time.Millisecond, true, 1, "me") // nobody is ignorant, for nobody is there
	f.beat(100*time.Millisecond, true, 1, "me")
	if _, due := f.markDue(f.at); due {
		t.Error("it has agreed with nobody")
	}
	f.joins(usual, "b", last-1000)
	f.joins(usual, "c", last+1000)
	f.want(3, 0)
	f.beat(100*time.Millisecond, true, 3, "c")
	f.beat(3*time.Second, true, 3, "c")
	name, due := f.markDue(f.at)
	if !due {
		t.Fatal("all have beaten twice, and no mark is due")
	}
	f.readMark(name)
	f.want(3, 3)
}

// A wipe in the middle of a newcomer's way to its floor takes the names of strict
// users with it that it has not read yet: it begins again.
func TestWipedStoreWhileSettling(t *testing.T) {
	f := newLone(t, 1)
	f.joins(usual, "b", 0)
	f.beat(100*time.Millisecond, true, 2, "b")
	f.want(2, 2)
	f = &lone{fleet: &fleet{changed: make(chan struct{}, 1)}, t: t, store: f.store}
	f.beat(0, false, 2, "me")
	f.beat(3*time.Second, true, 2, "me")
	f.beat(3*time.Second, false, 1, "me")
	f.beat(100*time.Millisecond, true, 1, "me")
	if _, due := f.markDue(f.at); due {
		t.Error("a mark is due, and the other has not named anybody again")
	}
	f.beat(100*time.Millisecond, true, 2, "b")
	f.beat(3*time.Second, true, 2, "b")
	if _, due := f.markDue(f.at); !due {
		t.Error("no mark is due")
	}
}

// A replica that was frozen until the others had forgotten it is one more to them.
func TestForgottenReplicaComesAgain(t *testing.T) {
	f := newLone(t, 2)
	f.joins(usual, "b", f.clock()-usual.forgotten.Milliseconds())
	f.want(3, 3)
}

// However often the store is wiped, no more than the cap is let in once the sums are
// right again, and no place is missing.
func TestWipedStoreGivesAll(t *testing.T) {
	server, url := fake(t)
	all := joinAll(t, url, 3)
	const most = 30
	open := 0
	for i := range 12 {
		if !all[i%3].enter("alice", most) {
			t.Fatal("refused")
		}
		open++
	}
	for range 3 {
		after(t.Context(), quick.beat/2)
		server.FlushAll()
		for _, r := range all {
			eventually(t, "it is on the list again, and has said what it holds", func() bool {
				_, err := server.ZScore("cs:{replicas}", r.ID())
				return err == nil && server.HGet("cs:{u:alice}:conns", r.ID()) != "" && r.fleet.complete()
			})
		}
		var came []*replica
		for i := range most + 3 {
			if r := all[i%3]; r.enter("alice", most) {
				came = append(came, r)
			}
		}
		if open+len(came) != most {
			t.Errorf("%d connections, and %d more: the cap is %d", open, len(came), most)
		}
		for _, r := range came {
			r.Leave("alice", home)
		}
	}
}

// complete reports whether no other is missing since the store has lost all.
func (f *fleet) complete() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wiped.count == 0
}
