package conn

import (
	"io"
	"net/http"
	"testing"
	"time"

	"cleversocks/conn/cause"
)

// Connections that began together end over a fifth of the age, evenly, and never
// outside of the tenth that is promised, with the look's delay counted in.
func TestAgesSpread(t *testing.T) {
	const limit = time.Hour
	var tenths [10]int
	for id := range uint64(10_000) {
		age := ageOf(id, limit)
		if age < limit-limit/10 || age+limit/ageLooks > limit+limit/10 {
			t.Fatalf("connection %d ends at %s", id, age)
		}
		tenths[int(10*float64(age-limit+limit/10)/(0.19*float64(limit)))]++
	}
	for i, n := range tenths {
		if n < 900 || n > 1100 {
			t.Errorf("%d of 10000 in part %d of ten", n, i)
		}
	}
}

// Looking again waits for what is due next, but neither for ever nor at once.
func TestAgesLook(t *testing.T) {
	g, _ := newTestGroup(t, true)
	if wait := g.endAged(time.Now(), time.Minute); wait != 54*time.Second {
		t.Errorf("with nobody: looks again after %s", wait)
	}
	client, server := pair(t, listen(t))
	defer client.Close()
	if reason := g.Admit(server, "test"); reason != "" {
		t.Fatal(reason)
	}
	if wait := g.endAged(time.Now(), time.Minute); wait != 600*time.Millisecond {
		t.Errorf("with a handshake, whose age is not known: looks again after %s", wait)
	}
}

// A connection of HTTP/2 that has reached its age takes no more requests: the
// client opens another, which may come to another replica. Its tunnels have ages
// of their own.
func TestAgeOfHTTP2(t *testing.T) {
	g, _ := newTestGroup(t, true)
	target := listen(t)
	go func() {
		for {
			c, err := target.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	c := multiplexed(t, g)
	w, res := tunnel(t, c, target.Addr().String(), nil)
	defer res.Body.Close()
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(res.Body, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	g.endAged(time.Now().Add(2*time.Hour), time.Hour)
	if _, err := res.Body.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("the tunnel ends with %v, want a reset", err)
	}
	for deadline := time.Now().Add(patience); c.CanTakeNewRequest() || g.Active() > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("the connection goes on, with %d sessions", g.Active())
		}
		<-time.After(time.Millisecond)
	}
}

// A connection of plain requests ends between two of them, and a tunnel that
// one of them has become is a tunnel.
func TestAgeOfPlainRequests(t *testing.T) {
	g, _ := newTestGroup(t, true)
	s := &session{id: 1, started: time.Now()}
	leaves, release := s.untilOld(g.base)
	s.grownOld()
	if leaves.Err() == nil {
		t.Error("it is not told to leave")
	}
	release()
	if _, open := s.openSince(); open {
		t.Error("it still counts as one of many requests")
	}
}

// What ended by its age says so, by the cause of a drain.
func TestAgeIsADrain(t *testing.T) {
	if o := outcomeOf(inTunnel, errAged); o.cause != cause.Drained || o.status == http.StatusOK {
		t.Errorf("%+v", o)
	}
}
