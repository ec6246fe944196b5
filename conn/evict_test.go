package conn

import (
	"net/netip"
	"testing"
	"time"
)

// A session may be evicted just when its door tells who its client is. It was listed
// anew, evicted once more and counted twice among those that leave, of which only one
// ended: after 64 of them nobody was evicted any more.
func TestEvictedOnce(t *testing.T) {
	var h handshakes
	s := &session{client: netip.MustParseAddrPort("192.0.2.1:1"), started: time.Now().Add(-2 * evictAge)}
	h.began(s)
	if victim, _, _ := h.evict(1); victim != s {
		t.Fatal("not evicted")
	}
	h.moved(s)
	if victim, _, _ := h.evict(1); victim != nil {
		t.Error("evicted twice")
	}
	h.ended(s)
	if h.leaving != 0 || len(h.sources) != 0 {
		t.Errorf("%d leave, %d sources", h.leaving, len(h.sources))
	}
}

// Sources come, go and are evicted at random: the lists hold who is there, in order.
func TestHandshakesHoldTheirLists(t *testing.T) {
	var h handshakes
	var all []*session
	for i := range 5000 {
		switch {
		case i%7 == 3 && len(all) > 0:
			if victim, _, n := h.evict(1); victim != nil && n < 1 {
				t.Fatal("evicted of none")
			}
		case i%3 == 1 && len(all) > 0:
			at := i * 31 % len(all)
			h.ended(all[at])
			all = append(all[:at], all[at+1:]...)
		default:
			s := &session{
				client:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i * 13 % 5)}), 1),
				started: time.Now().Add(-2 * evictAge).Add(time.Duration(i) * time.Microsecond),
			}
			h.began(s)
			all = append(all, s)
		}
		listed := 0
		for key, of := range h.sources {
			n, before := 0, (*session)(nil)
			for s := of.oldest; s != nil; before, s = s, s.newer {
				if s.older != before || s.handshakes != of || before != nil && s.started.Before(before.started) {
					t.Fatal("the list is broken")
				}
				n++
			}
			if n == 0 || n != of.count || of.newest != before || of.source != key {
				t.Fatalf("%d of %d are listed", n, of.count)
			}
			listed += n
		}
		waiting := 0
		for _, s := range all {
			if s.handshakes != nil {
				waiting++
			}
		}
		if listed != waiting || h.most != nil && h.sources[h.most.source] != h.most {
			t.Fatalf("%d are listed, %d wait", listed, waiting)
		}
	}
	for _, s := range all {
		h.ended(s)
	}
	if h.leaving != 0 || len(h.sources) != 0 || h.most != nil {
		t.Errorf("%d leave, %d sources", h.leaving, len(h.sources))
	}
}
