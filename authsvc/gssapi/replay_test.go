package gssapi

import (
	"encoding/binary"
	"encoding/json"
	"testing"
	"time"
)

// seenAt is the n-th authenticator of a client, made at a time.
func seenAt(client byte, n int, at time.Time) authenticator {
	a := authenticator{at: at, client: [32]byte{client}}
	binary.BigEndian.PutUint64(a.id[:], uint64(n))
	a.id[31] = client
	return a
}

// A user with one ticket can make as many authenticators as he has time for. He
// fills half of the cache with them, and the others go on logging in.
func TestOneClientDoesNotFillTheReplayCache(t *testing.T) {
	c := NewReplayCache()
	c.most = 1024
	now := time.Now()
	taken := 0
	for n := range 2000 {
		if c.add(seenAt(1, n, now), time.Minute) == replayNew {
			taken++
		}
	}
	if taken != 512 {
		t.Errorf("%d taken", taken)
	}
	for n := range 50 {
		if got := c.add(seenAt(byte(2+n%9), n, now), time.Minute); got != replayNew {
			t.Fatalf("another client: %d", got)
		}
	}
	c.now = func() time.Time { return now.Add(2 * time.Minute) }
	if got := c.add(seenAt(1, 5000, now.Add(2*time.Minute)), time.Minute); got != replayNew || len(c.seen) != 1 || len(c.clients) != 1 {
		t.Errorf("a while later: %d, %d kept, of %d clients", got, len(c.seen), len(c.clients))
	}
}

// A reload raises clock_skew: what was taken and forgotten under the old one
// would be young enough again, and is not let in a second time.
func TestReplayAfterTheSkewWasRaised(t *testing.T) {
	c := NewReplayCache()
	now := time.Now()
	c.now = func() time.Time { return now }
	old := seenAt(1, 1, now)
	if got := c.add(old, time.Second); got != replayNew {
		t.Fatal(got)
	}
	now = now.Add(time.Minute) // and a log-in has the old one forgotten
	if got := c.add(seenAt(1, 2, now), time.Second); got != replayNew || len(c.seen) != 1 {
		t.Fatal(got, len(c.seen))
	}
	if got := c.add(old, 5*time.Minute); got != replayForgotten {
		t.Errorf("the old one: %d", got)
	}
	if got := c.add(seenAt(1, 2, now), 5*time.Minute); got != replaySeen {
		t.Errorf("one that is known: %d", got)
	}
	if got := c.add(seenAt(1, 3, now), 5*time.Minute); got != replayNew {
		t.Errorf("a new one: %d", got)
	}
}

// A successor that is told what its predecessor has taken, twice and between its
// own, takes none of it, and what is over is left behind.
func TestReplaysAreHandedOver(t *testing.T) {
	before, after := NewReplayCache(), NewReplayCache()
	now := time.Now()
	for n := range 100 {
		before.add(seenAt(1, n, now), time.Minute)
	}
	before.add(seenAt(1, 100, now.Add(-time.Hour)), time.Minute) // over
	saved, err := json.Marshal(before.dump())
	if err != nil {
		t.Fatal(err)
	}
	after.add(seenAt(2, 1, now), time.Minute)
	for range 2 {
		if err := after.restore(saved); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 100 {
		if got := after.add(seenAt(1, n, now), time.Minute); got != replaySeen {
			t.Fatalf("number %d: %d", n, got)
		}
	}
	if len(after.seen) != 101 {
		t.Errorf("%d known", len(after.seen))
	}
	if err := after.restore([]byte(`[{"id":"AAAA","until":1},`)); err == nil || len(after.seen) != 101 {
		t.Errorf("damaged: %v, %d known", err, len(after.seen))
	}
}
