package udprelay

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"cleversocks/conn/cause"
	"cleversocks/conn/wire"
	"cleversocks/metrics"
)

// second is another socket of the client's, on its association.
func (h *harness) second(t *testing.T) *harness {
	t.Helper()
	other := *h
	other.udp = listenUDP(t, h.control.LocalAddr().(*net.TCPAddr).AddrPort().Addr())
	return &other
}

// Discord and games send from several ports of one address through one
// association. Only the first port was answered, or all answers went to the
// one that spoke last. Even from one server, each port gets its own.
func TestEachClientPortIsAnsweredAtItsOwn(t *testing.T) {
	r := New(RelayOptions{})
	h := associate(t, r, func(s *Request) {
		s.Resolve = func(context.Context, wire.Addr) ([]netip.Addr, error) { return []netip.Addr{loopback4}, nil }
	})
	at := echo(t, loopback4)
	all := []*harness{h}
	for range 5 {
		all = append(all, h.second(t))
	}
	for i, port := range all {
		port.send(t, wrap(t, to(at), fmt.Appendf(nil, "first of %d", i)))
	}
	for i, port := range all {
		if _, got := port.receive(t); string(got) != fmt.Sprintf("first of %d", i) {
			t.Errorf("port %d received %q", i, got)
		}
	}
	for i, port := range all {
		port.roundTrip(t, to(at), at, fmt.Sprintf("second of %d", i))
		port.roundTrip(t, wire.Addr{Name: "a.example", Port: at.Port()}, at, fmt.Sprintf("by name, of %d", i))
	}
	if res := h.end(t); res.DatagramsIn != 18 || res.DatagramsOut != 18 {
		t.Errorf("%+v", res)
	}
	if n := r.extra.Load(); n != 0 {
		t.Errorf("%d sockets are still counted", n)
	}
}

// Ports of a client are bounded, by association and in all; the first port is
// never left without a socket.
func TestClientPortsAreBounded(t *testing.T) {
	m := metrics.New()
	h := associate(t, New(RelayOptions{MaxExtraSockets: 2, Metrics: m}), nil)
	at := echo(t, loopback4)
	one, two, three := h.second(t), h.second(t), h.second(t)
	h.roundTrip(t, to(at), at, "x")
	one.roundTrip(t, to(at), at, "x")
	two.roundTrip(t, to(at), at, "x")
	three.send(t, wrap(t, to(at), []byte("over")))
	h.roundTrip(t, to(at), at, "still")
	two.roundTrip(t, to(at), at, "still")
	eventually(t, "it is counted", func() bool { return m.UDP.Datagrams.Of("in", metrics.UDPOverload).Get() == 1 })
	h.end(t)
	if n := m.UDP.Datagrams.Of("in", metrics.UDPOverload).Get(); n != 1 {
		t.Errorf("%d datagrams counted as overload, want 1", n)
	}
}

// A port that has been silent gives its place to a new one.
func TestSilentPortsGiveWay(t *testing.T) {
	a := &association{routes: newRoutes()}
	from := func(i int) *endpoint {
		e := endpointOf(netip.AddrPortFrom(loopback4, uint16(1000+i)))
		return &e
	}
	for i := range clientPorts {
		p, what := a.portOf(from(i), int64(i))
		if what != relayed {
			t.Fatalf("port %d: %v", i, what)
		}
		p.heard.Store(int64(i))
		p.moved.Store(int64(i))
	}
	if _, what := a.portOf(from(clientPorts), yieldAfter); what != overload {
		t.Errorf("a new one took the place of a lively one: %v", what)
	}
	p, what := a.portOf(from(clientPorts), yieldAfter+2)
	if what != relayed || p.number != 1 {
		t.Errorf("%v, %v; want the place of the one that was silent longest, the first excepted", p, what)
	}
	if _, what := a.portOf(from(0), yieldAfter+2); what != relayed {
		t.Errorf("the first port lost its place: %v", what)
	}
}

// An association was ended after two quiet minutes while its control
// connection lived on, and an OpenVPN client never noticed. Now it lets its
// sockets go, and takes them again, at the same port, when it is used.
func TestIdlenessEndsNothing(t *testing.T) {
	var opened atomic.Int64
	h := associate(t, New(RelayOptions{IdleTimeout: 50 * time.Millisecond}), func(s *Request) {
		s.Listen = func(ctx context.Context, network string, last netip.AddrPort) (*net.UDPConn, error) {
			opened.Add(1)
			return listenAny(ctx, network, last)
		}
	})
	server := listenUDP(t, loopback4)
	var source netip.AddrPort
	for i := range 3 {
		h.send(t, wrap(t, to(portOf(server)), []byte("hello")))
		buf := make([]byte, 16)
		_ = server.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, from, err := server.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 && from != source {
			t.Errorf("after a rest the server sees %v, before %v", from, source)
		}
		source = from
		// Its port is free when the association rests.
		eventually(t, "the socket is let go", func() bool {
			c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: int(source.Port())})
			if err == nil {
				_ = c.Close()
			}
			return err == nil
		})
	}
	if n := opened.Load(); n != 3 {
		t.Errorf("%d sockets were opened, want 3", n)
	}
	if res := h.end(t); res.Cause != cause.ClientClosed || res.DatagramsIn != 3 {
		t.Errorf("%+v", res)
	}
}

// Each port has an association of its own at an upstream, since many answer
// only the port that spoke first.
func TestClientPortsThroughAnUpstream(t *testing.T) {
	answer := netip.MustParseAddrPort("192.0.2.1:53")
	var asked atomic.Int64
	h := associate(t, New(RelayOptions{}), func(s *Request) {
		s.Upstream = func(context.Context) (Upstream, error) {
			asked.Add(1)
			at, _ := fakeUpstream(t, make(chan wire.Addr, 100), to(answer))
			theirs, ours := tcpPair(t, "127.0.0.1")
			t.Cleanup(func() { _ = theirs.Close() })
			return Upstream{Relay: at, Control: ours}, nil
		}
	})
	two := h.second(t)
	for i := range 3 {
		h.roundTrip(t, to(answer), answer, fmt.Sprintf("one %d", i))
		two.roundTrip(t, to(answer), answer, fmt.Sprintf("two %d", i))
		two.roundTrip(t, wire.Addr{Name: "far.example", Port: 53}, answer, fmt.Sprintf("by name %d", i))
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("%d associations at the upstream, want 2", n)
	}
	if res := h.end(t); res.DatagramsIn != 9 || res.DatagramsOut != 9 {
		t.Errorf("%+v", res)
	}
}
