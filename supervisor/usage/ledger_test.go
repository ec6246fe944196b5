package usage

import (
	"testing"
	"time"
)

// Datagrams count when they come, and those that cannot be sent are taken off at the
// association's end: the next event said that a user had moved less than nothing. It
// is set off against what the user moves then, and the sum stays what was moved.
func TestNobodyMovesLessThanNothing(t *testing.T) {
	l := newLedger()
	udp := Session{ID: "1", User: "alice", BytesIn: 1000, BytesOut: 50}
	sum := [2]int64{}
	settle := func(now ...Session) (n int) {
		t.Helper()
		for _, u := range l.settle(now, time.Now()) {
			if u.BytesIn < 0 || u.BytesOut < 0 || u.Name != "alice" {
				t.Errorf("told %+v", u)
			}
			sum[0], sum[1] = sum[0]+u.BytesIn, sum[1]+u.BytesOut
			n++
		}
		return n
	}
	settle(udp)
	udp.BytesIn, udp.BytesOut, udp.Cause = 900, 60, "client_closed"
	l.ended(&udp)
	settle()
	if sum != [2]int64{1000, 60} {
		t.Errorf("told %v", sum)
	}
	if n := settle(); n != 0 {
		t.Errorf("%d events of nothing", n)
	}
	tcp := Session{ID: "2", User: "alice", BytesIn: 300, Cause: "client_closed"}
	l.ended(&tcp)
	settle()
	if sum != [2]int64{1200, 60} || len(l.total) != 0 {
		t.Errorf("told %v, and %v is left", sum, l.total)
	}
}
