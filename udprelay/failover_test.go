package udprelay

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	"cleversocks/conn/wire"
)

// "localhost" went to ::1, where nobody was, though a server sat at 127.0.0.1.
// The next address is tried when ICMP says that the first is unreachable, with
// the very datagram, and what worked is remembered.
func TestNextAddressWhenTheFirstIsUnreachable(t *testing.T) {
	for _, filter := range []Filter{FilterAddress, FilterEndpoint, FilterNone} {
		var asked atomic.Int64
		h := associate(t, New(RelayOptions{Filter: filter}), func(s *Request) {
			s.Resolve = func(context.Context, wire.Addr) ([]netip.Addr, error) {
				asked.Add(1)
				return []netip.Addr{loopback6, netip.MustParseAddr("127.0.0.9"), loopback4}, nil
			}
		})
		at := echo(t, loopback4)
		name := wire.Addr{Name: "localhost", Port: at.Port()}
		for i := range 5 {
			h.roundTrip(t, name, at, fmt.Sprint("datagram ", i))
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("the resolver was asked %d times, want 1", n)
		}
		// Four datagrams did not go to ::1 first.
		if res := h.end(t); res.DatagramsIn != 5 || res.DatagramsOut != 5 {
			t.Errorf("%+v", res)
		}
	}
}

// Two ports of one name may be served at different addresses; neither moves
// the other.
func TestPortsOfANameFailOverApart(t *testing.T) {
	h := associate(t, New(RelayOptions{}), func(s *Request) {
		s.Resolve = func(context.Context, wire.Addr) ([]netip.Addr, error) {
			return []netip.Addr{loopback6, loopback4}, nil
		}
	})
	at4, at6 := echo(t, loopback4), echo(t, loopback6)
	for range 3 {
		h.roundTrip(t, wire.Addr{Name: "localhost", Port: at4.Port()}, at4, "four")
		h.roundTrip(t, wire.Addr{Name: "localhost", Port: at6.Port()}, at6, "six")
	}
	h.end(t)
}

// When none of a name's addresses is alive it is looked up anew: the servers
// may have moved.
func TestUnreachableNameIsLookedUpAgain(t *testing.T) {
	var asked atomic.Int64
	h := associate(t, New(RelayOptions{}), func(s *Request) {
		s.Resolve = func(context.Context, wire.Addr) ([]netip.Addr, error) {
			if asked.Add(1) == 1 {
				return []netip.Addr{netip.MustParseAddr("127.0.0.8"), netip.MustParseAddr("127.0.0.9")}, nil
			}
			return []netip.Addr{loopback4}, nil
		}
	})
	at := echo(t, loopback4)
	name := wrap(t, wire.Addr{Name: "moved.example", Port: at.Port()}, []byte("x"))
	got := make(chan struct{})
	go func() {
		defer close(got)
		buf := make([]byte, 64)
		_, _ = h.udp.Read(buf)
	}()
	eventually(t, "the new address is found", func() bool {
		h.send(t, name)
		select {
		case <-got:
			return true
		default:
			return false
		}
	})
	if n := asked.Load(); n < 2 {
		t.Errorf("the resolver was asked %d times", n)
	}
	h.end(t)
}

// A name kept its address for 30 seconds only: with a turning set a game was
// moved to another server in the middle of it.
func TestNameKeepsItsAddressWhileItIsUsed(t *testing.T) {
	n := newNames()
	n.put(&name{raw: "game.example", ips: []netip.Addr{loopback4}}, 0)
	now := int64(0)
	for range 100 {
		now += tableSpan - 1
		if n.get([]byte("game.example"), now) == nil {
			t.Fatalf("forgotten after %d ns", now)
		}
	}
	if n.get([]byte("game.example"), now+2*tableSpan) != nil {
		t.Error("an unused name is remembered for ever")
	}
}

// The moves of one port of a name, without sockets.
func TestMoveOn(t *testing.T) {
	ips := []netip.Addr{loopback6, loopback4}
	n := newNames()
	e := &name{raw: "a.example", ips: ips}
	n.put(e, 0)
	port := &clientPort{}
	gone := func(i int) netip.AddrPort { return netip.AddrPortFrom(ips[i], 53) }
	n.keep(e, 53, port, []byte("copy"))
	if payload, from := n.moveOn(e, gone(1)); from != nil {
		t.Errorf("moved by what was said of another address: %q", payload)
	}
	if payload, from := n.moveOn(e, gone(0)); from != port || string(payload) != "copy" {
		t.Errorf("%q, %v", payload, from)
	}
	n.answered(e, gone(1))
	if first, answered := n.choice(e, 53); first != 1 || !answered {
		t.Errorf("address %d, answered %v", first, answered)
	}
	if first, _ := n.choice(e, 54); first != 1 {
		t.Errorf("another port starts at address %d, not at the one that works", first)
	}
	n.moveOn(e, gone(1))
	if n.get([]byte("a.example"), 0) == nil {
		t.Error("forgotten with an address left to try")
	}
	if n.moveOn(e, gone(0)); n.get([]byte("a.example"), 0) != nil {
		t.Error("kept though all addresses are gone")
	}
	if i := slices.IndexFunc(n.kept[:], func(k keptDatagram) bool { return k.name != nil }); i >= 0 {
		t.Error("a copy is left")
	}
}
