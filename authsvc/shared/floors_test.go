package shared

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2/server"

	"cleversocks/aclsvc/ratelimit"
	"cleversocks/authsvc"
)

// fill has a replica take what it can get of a cap, and says how much that is.
func fill(r *replica, user string, most int) (n int) {
	for r.enter(user, most) {
		n++
	}
	return n
}

// A user whose connections are all at one replica was strict for the time of a
// lease, and no longer: then another replica used its floor, which was taken.
func TestCapOutlastsLeases(t *testing.T) {
	_, url := fake(t)
	all := joinAll(t, url, 2)
	if n := fill(all[0], "alice", 10); n != 10 {
		t.Fatalf("%d of 10", n)
	}
	after(t.Context(), 3*quick.lease) // nothing happens, again and again
	if n := fill(all[1], "alice", 10); n > 0 {
		t.Errorf("%d more, the cap is in use", n)
	}
}

// A replica that is new knew nothing of who is strict, and used its floor.
func TestCapAndNewcomers(t *testing.T) {
	_, url := fake(t)
	all := joinAll(t, url, 2)
	n := 0
	for range 9 {
		if all[0].enter("alice", 10) {
			n++
		}
	}
	fill(all[0], "bob", 20)
	late := join(t, url, "late")
	eventually(t, "it has a floor", late.settledNow)
	for range 5 {
		if late.enter("alice", 10) {
			n++
		}
	}
	if n > 10 || late.enter("bob", 20) {
		t.Errorf("%d connections, or more than 20: the caps are 10 and 20", n)
	}
}

// Floors of many replicas are more than those of few that were reckoned with: of
// ten, one replica of two may hold eight, and four more replicas had a floor of one.
func TestCapAndGrowth(t *testing.T) {
	_, url := fake(t)
	all := joinAll(t, url, 2)
	n := 0
	for range 8 {
		if all[0].enter("alice", 10) {
			n++
		}
	}
	for i := range 3 {
		all = append(all, join(t, url, fmt.Sprint("late", i)))
	}
	for _, r := range all {
		eventually(t, "all know each other", func() bool { return r.fleet.count() == 5 && r.settledNow() })
	}
	for _, r := range all[1:] {
		if r.enter("alice", 10) {
			n++
		}
	}
	for _, r := range all[1:] {
		n += fill(r, "alice", 10)
	}
	if n != 10 {
		t.Errorf("%d connections, the cap is 10", n)
	}
}

// When replicas go, floors grow: of a user who has all that the few may have,
// nobody may use one.
func TestCapAndShrinking(t *testing.T) {
	_, url := fake(t)
	all := joinAll(t, url, 6)
	n := fill(all[0], "alice", 10)
	for _, r := range all[2:] {
		r.stop()
	}
	eventually(t, "the floor has grown", func() bool { return all[1].fleet.floor(all[1].Store, 10) == 2 })
	if n += fill(all[1], "alice", 10); n != 10 {
		t.Errorf("%d connections, the cap is 10", n)
	}
}

// One of the replicas does not hear that it should do without its floor, and the
// budget of a call ended before that was sure: each replica let the whole cap in.
// It was seen in a rolling restart on a busy machine, nine of three.
func TestCapWithDeafReplica(t *testing.T) {
	store, url := fake(t)
	var all []*replica
	for _, name := range []string{"a", "b"} {
		r := prepare(t, url, name, func(o *Options) { o.Timeout = 100 * time.Millisecond })
		r.rhythm = rhythm{beat: quick.beat, lease: time.Minute, forgotten: time.Hour} // the deaf one counts all the while
		r.serve(t)
		all = append(all, r)
	}
	acquainted(t, all)
	release := make(chan struct{})
	store.Server().SetPreHook(func(_ *server.Peer, cmd string, args ...string) bool {
		switch {
		case cmd == "XREAD" || cmd == "EVALSHA" && slices.Contains(args, all[1].ID()):
			<-release
		case cmd == "EVALSHA":
			after(t.Context(), 20*time.Millisecond) // several fit into the time of one decision
		}
		return false
	})
	var n atomic.Int64
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if all[0].enter("alice", 10) {
				n.Add(1)
			}
		})
	}
	wg.Wait()
	close(release)
	if n.Load() > 8 {
		t.Errorf("%d connections, 2 of 10 are the other replica's", n.Load())
	}
	// So long without an answer, it may have taken the store for down, and counts by
	// itself then.
	released := all[1].now()
	eventually(t, "the other hears again", func() bool {
		all[1].fleet.mu.Lock()
		defer all[1].fleet.mu.Unlock()
		return all[1].fleet.beaten > released && !all[1].health.isDown()
	})
	if n := int(n.Load()) + fill(all[1], "alice", 10); n > 10 {
		t.Errorf("%d connections, the cap is 10", n)
	}
}

// What was let in without the store's word, since a call was late, the store hears
// of at once: others are not let in by a sum of before.
func TestLateCallIsTold(t *testing.T) {
	store, url := fake(t)
	all := joinAll(t, url, 2, func(o *Options) { o.Timeout = 20 * time.Millisecond })
	var late sync.Once
	store.Server().SetPreHook(func(_ *server.Peer, cmd string, _ ...string) bool {
		if cmd == "EVALSHA" {
			late.Do(func() { after(t.Context(), 100*time.Millisecond) })
		}
		return false
	})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { all[0].enter("alice", 3) })
	}
	wg.Wait()
	all[0].quiet(t, "alice")
	u := all[0].lockSeat("alice")
	defer u.mu.Unlock()
	if u.said != u.held {
		t.Errorf("the store was told of %d, there are %d", u.said, u.held)
	}
}

// held is a connection, which ends when it is one too many.
type held struct {
	replica *replica
	ended   *atomic.Int64
}

func (h held) EndSurplus() {
	h.ended.Add(1)
	h.replica.Leave("alice", home)
}

// Three replicas whose calls are late let in nine of three; the answers say so, and
// six of them end: not more, though each replica hears that there are too many.
func TestLateAnswersEndSurplus(t *testing.T) {
	store, url := fake(t)
	all := joinAll(t, url, 3, func(o *Options) { o.Timeout = 50 * time.Millisecond })
	late := make(chan struct{}) // is closed when nobody waits for an answer any more
	store.Server().SetPreHook(func(_ *server.Peer, cmd string, args ...string) bool {
		if cmd == "EVALSHA" && slices.Contains(args, "cs:{u:alice}:conns") {
			<-late
		}
		return false
	})
	var came, ended atomic.Int64
	var wg sync.WaitGroup
	for i := range 9 {
		wg.Go(func() {
			r := all[i%3]
			if r.Enter(t.Context(), "alice", home, 3, 0, held{r, &ended}) == ratelimit.Admitted {
				came.Add(1)
			}
		})
	}
	wg.Wait()
	close(late)
	if came.Load() < 4 {
		t.Fatalf("%d came: no answer was late", came.Load())
	}
	eventually(t, "three are left", func() bool { return came.Load()-ended.Load() == 3 })
	for _, r := range all {
		r.quiet(t, "alice")
	}
	if left := came.Load() - ended.Load(); left != 3 {
		t.Errorf("%d are left, the cap is 3", left)
	}
}

// A connection that comes before the service runs waits for it, and is counted.
func TestEnterBeforeServe(t *testing.T) {
	_, url := fake(t)
	all := joinAll(t, url, 1, func(o *Options) { o.Timeout = patience })
	fill(all[0], "alice", 3)
	verdict := make(chan ratelimit.Verdict, 1)
	late := prepare(t, url, "late", func(o *Options) { o.Timeout = patience })
	go func() { verdict <- late.Enter(t.Context(), "alice", home, 3, 0, nil) }()
	eventually(t, "it waits", func() bool {
		u := late.lockSeat("alice")
		defer u.mu.Unlock()
		return len(u.waiting) == 1
	})
	late.serve(t)
	if v := <-verdict; v != ratelimit.TooMany {
		t.Errorf("verdict %d", v)
	}
}

// So is a client that has logged in elsewhere: it was refused for want of a password
// while a replica that was started again had its first connections.
func TestAskBeforeServe(t *testing.T) {
	_, url := fake(t)
	early := joinAll(t, url, 1)[0]
	addr := netip.MustParseAddr("192.0.2.7")
	early.once.Add(addr, authsvc.Identity{User: "carol", Method: authsvc.MethodPassword})
	eventually(t, "the store knows it", func() bool { return early.Ask(t.Context(), addr) != nil })
	late := prepare(t, url, "late", func(o *Options) { o.Timeout = patience })
	if err := late.Meet(t.Context()); err != nil {
		t.Fatal(err)
	}
	known := make(chan bool, 1)
	go func() { _, ok := late.once.LookupElsewhere(t.Context(), addr); known <- ok }()
	select {
	case <-known:
		t.Error("it did not wait for the service")
	case <-time.After(20 * time.Millisecond):
		late.serve(t)
		if !<-known {
			t.Error("it is not known")
		}
	}
}

// Connections that come and go at one replica cost no call near the cap, unless
// somebody else waits for what they give back; and then they are given back at once.
func TestCallsOfLeaving(t *testing.T) {
	_, url := fake(t)
	all := joinAll(t, url, 2)
	calls := func(r *replica) uint64 {
		return r.metrics.Shared.Calls.Of("enter", "ok").Get()
	}
	for range 30 {
		all[0].enter("alice", 40)
	}
	before := calls(all[0])
	for range 100 {
		all[0].Leave("alice", home)
		if !all[0].enter("alice", 40) {
			t.Fatal("refused")
		}
	}
	if n := calls(all[0]) - before; n > 50 { // each beat gives back
		t.Errorf("%d calls for 100 connections that come and go", n)
	}
	n := 30 + fill(all[1], "alice", 40)
	if n != 40 {
		t.Fatalf("%d of 40", n)
	}
	all[0].Leave("alice", home)
	all[0].quiet(t, "alice")
	if !all[1].enter("alice", 40) {
		t.Error("what was given back is not free")
	}
}
