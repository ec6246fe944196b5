package udprelay

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"cleversocks/aclsvc"
	"cleversocks/conn/cause"
	"cleversocks/conn/netaddr"
	"cleversocks/conn/wire"
	"cleversocks/metrics"
)

var (
	loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback6 = netip.IPv6Loopback()
)

func TestRoundTrips(t *testing.T) {
	r := New(RelayOptions{})
	h := associate(t, r, nil)
	if h.code != wire.ReplySucceeded || h.bound.Addr() != loopback4 || h.bound.Port() == 0 {
		t.Fatalf("reply %v, bound %v", h.code, h.bound)
	}
	at4, at6 := echo(t, loopback4), echo(t, loopback6)
	h.roundTrip(t, to(at4), at4, "four")
	h.roundTrip(t, to(at6), at6, "six")
	h.roundTrip(t, to(at4), at4, "")
	h.roundTrip(t, to(at4), at4, strings.Repeat("x", 65507-10))
	h.roundTrip(t, to(at4), at4, "after a large one")
	res := h.end(t)
	if res.Cause != cause.ClientClosed || res.DatagramsIn != 5 || res.DatagramsOut != 5 || res.BytesIn != res.BytesOut {
		t.Errorf("%+v", res)
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Bursts go through batches, GSO and GRO: whatever is joined on the way must
// come apart again at the same places.
func TestBurstKeepsDatagramsApart(t *testing.T) {
	h := associate(t, New(RelayOptions{}), nil)
	at := echo(t, loopback4)
	other := echo(t, loopback6)
	sizes := []int{0, 1, 512, 512, 512, 512, 100, 1400, 1400, 512, 9000, 20000, 20000, 3}
	for round := range 20 {
		want := make(map[string]int)
		for i, size := range sizes {
			dest := at
			if i%5 == 4 {
				dest = other
			}
			payload := bytes.Repeat([]byte{byte(round), byte(i)}, size)[:size]
			want[dest.String()+string(payload)]++
			h.send(t, wrap(t, to(dest), payload))
		}
		for range sizes {
			from, got := h.receive(t)
			key := from.String() + string(got)
			if want[key]--; want[key] < 0 {
				t.Fatalf("round %d: %d bytes from %v that were not sent", round, len(got), from)
			}
		}
	}
	h.end(t)
}

// What is no datagram for the relay ends nothing.
func TestRubbishEndsNothing(t *testing.T) {
	m := metrics.New()
	h := associate(t, New(RelayOptions{Metrics: m}), nil)
	at := echo(t, loopback4)
	for _, b := range []string{
		"", "\x00", "\x00\x00", "\x00\x00\x00", "\x00\x00\x00\x01\x7f", "\x00\x00\x00\x09\x7f\x00\x00\x01\x00\x35x",
		"\x00\x00\x00\x01\x7f\x00\x00\x01\x00\x00port 0", "\x00\x00\x00\x03\x00\x00\x35no name", "\x00\x00\x00\x03\x03a\x00b\x00\x35NUL",
		"\x00\x00\x00\x03\xff",
	} {
		h.send(t, []byte(b))
	}
	h.roundTrip(t, to(at), at, "still here")
	eventually(t, "all is counted", func() bool { return m.UDP.Datagrams.Of("in", metrics.UDPMalformed).Get() == 10 })
	h.end(t) // and then all is counted
	if got := m.UDP.Datagrams.Of("in", metrics.UDPMalformed).Get(); got != 10 {
		t.Errorf("%d malformed datagrams counted, want 10", got)
	}
}

// ICMP errors end nothing: the first destination refuses.
func TestPortUnreachableEndsNothing(t *testing.T) {
	h := associate(t, New(RelayOptions{}), nil)
	closed := listenUDP(t, loopback4)
	nobody := portOf(closed)
	_ = closed.Close()
	at := echo(t, loopback4)
	for range 5 {
		h.send(t, wrap(t, to(nobody), []byte("x")))
		h.roundTrip(t, to(at), at, "y")
	}
	h.end(t)
}

func TestClientIsEnforced(t *testing.T) {
	m := metrics.New()
	h := associate(t, New(RelayOptions{Metrics: m, FirstPortOnly: true}), nil)
	at := echo(t, loopback4)
	strangers := []*net.UDPConn{listenUDP(t, netip.MustParseAddr("127.0.0.2"))}
	if _, err := strangers[0].WriteToUDPAddrPort(wrap(t, to(at), []byte("before")), h.bound); err != nil {
		t.Fatal(err)
	}
	h.roundTrip(t, to(at), at, "mine")
	strangers = append(strangers, listenUDP(t, loopback4)) // the client's address, another port
	for _, s := range strangers {
		if _, err := s.WriteToUDPAddrPort(wrap(t, to(at), []byte("theirs")), h.bound); err != nil {
			t.Fatal(err)
		}
	}
	h.roundTrip(t, to(at), at, "mine again")
	eventually(t, "the strangers are counted", func() bool { return m.UDP.Datagrams.Of("in", metrics.UDPWrongClient).Get() == 3 })
	if res := h.end(t); res.DatagramsIn != 2 {
		t.Errorf("%d datagrams relayed, want 2", res.DatagramsIn)
	}
	if got := m.UDP.Datagrams.Of("in", metrics.UDPWrongClient).Get(); got != 3 {
		t.Errorf("%d datagrams of strangers counted, want 3", got)
	}
}

func TestReplyFilter(t *testing.T) {
	tests := []struct {
		filter             Filter
		stranger, neighbor bool // who gets through: another host, another port of the host
	}{
		{FilterNone, true, true},
		{FilterAddress, false, true},
		{FilterEndpoint, false, false},
	}
	for _, tt := range tests {
		h := associate(t, New(RelayOptions{Filter: tt.filter}), nil)
		server := listenUDP(t, loopback4)
		h.send(t, wrap(t, to(portOf(server)), []byte("hello")))
		buf := make([]byte, 64)
		_, source, err := server.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"server"}
		if tt.neighbor {
			want = append([]string{"neighbor"}, want...)
		}
		if tt.stranger {
			want = append([]string{"stranger"}, want...)
		}
		for _, from := range []struct {
			conn *net.UDPConn
			text string
		}{
			{listenUDP(t, netip.MustParseAddr("127.0.0.2")), "stranger"},
			{listenUDP(t, loopback4), "neighbor"},
			{server, "server"},
		} {
			if _, err := from.conn.WriteToUDPAddrPort([]byte(from.text), source); err != nil {
				t.Fatal(err)
			}
		}
		for _, w := range want {
			if _, got := h.receive(t); string(got) != w {
				t.Errorf("filter %d: got %q, want %q", tt.filter, got, w)
			}
		}
		h.end(t)
	}
}

// Every datagram is judged; decisions are remembered until the rules change.
func TestDecisionsFollowTheRules(t *testing.T) {
	var generation atomic.Uint64
	var asked atomic.Int64
	var deny atomic.Pointer[netip.AddrPort]
	h := associate(t, New(RelayOptions{Filter: FilterEndpoint}), func(s *Request) {
		s.Generation = generation.Load
		s.Decide = func(dest wire.Addr, ip netip.Addr) aclsvc.Decision {
			asked.Add(1)
			d := deny.Load()
			return aclsvc.Decision{Allow: d == nil || netip.AddrPortFrom(ip, dest.Port) != *d}
		}
	})
	first, second := echo(t, loopback4), echo(t, loopback4)
	for range 5 {
		h.roundTrip(t, to(first), first, "a")
		h.roundTrip(t, to(second), second, "b")
	}
	if got := asked.Load(); got != 2 {
		t.Errorf("the rules were asked %d times, want 2", got)
	}
	deny.Store(&first)
	generation.Add(1)
	h.send(t, wrap(t, to(first), []byte("denied")))
	h.roundTrip(t, to(second), second, "allowed")
	if res := h.end(t); res.DatagramsIn != 11 {
		t.Errorf("%d datagrams relayed, want 11", res.DatagramsIn)
	}
}

func TestPanicInADecisionDenies(t *testing.T) {
	m := metrics.New()
	h := associate(t, New(RelayOptions{Metrics: m, Panics: counting(m)}), func(s *Request) {
		s.Decide = func(dest wire.Addr, _ netip.Addr) aclsvc.Decision {
			if dest.Port == 1 {
				panic("broken rule")
			}
			return aclsvc.Decision{Allow: true}
		}
	})
	at := echo(t, loopback4)
	h.send(t, wrap(t, to(netip.AddrPortFrom(loopback4, 1)), nil))
	h.roundTrip(t, to(at), at, "others go on")
	eventually(t, "the denial is counted", func() bool { return m.UDP.Datagrams.Of("in", metrics.UDPDenied).Get() == 1 })
	h.end(t)
	if got := m.UDP.Datagrams.Of("in", metrics.UDPDenied).Get(); got != 1 {
		t.Errorf("%d denied, want 1", got)
	}
	if got := m.Conn.Panics.Of("decision").Get(); got != 1 {
		t.Errorf("%d panics counted, want 1", got)
	}
}

// 0.0.0.0 would reach loopback on Linux, and the relay's own sockets nobody.
func TestNeverADestination(t *testing.T) {
	m := metrics.New()
	h := associate(t, New(RelayOptions{Metrics: m}), nil)
	at := echo(t, loopback4)
	h.send(t, wrap(t, wire.Addr{IP: netip.IPv4Unspecified(), Port: at.Port()}, []byte("x")))
	h.send(t, wrap(t, wire.Addr{IP: netip.IPv6Unspecified(), Port: at.Port()}, []byte("x")))
	h.send(t, wrap(t, to(h.bound), wrap(t, to(at), []byte("x"))))
	h.roundTrip(t, to(at), at, "fine")
	eventually(t, "the denials are counted", func() bool { return m.UDP.Datagrams.Of("in", metrics.UDPDenied).Get() == 3 })
	h.end(t)
	if got := m.UDP.Datagrams.Of("in", metrics.UDPDenied).Get(); got != 3 {
		t.Errorf("%d denied, want 3", got)
	}
}

func TestAdvertisedAddressAndPortRange(t *testing.T) {
	public := netip.MustParseAddr("203.0.113.7")
	h := associate(t, New(RelayOptions{Ports: netaddr.PortRange{First: 43000, Last: 43999}}), func(s *Request) { s.Advertise = public })
	if h.bound.Addr() != public || h.bound.Port() < 43000 || h.bound.Port() > 43999 {
		t.Errorf("told %v", h.bound)
	}
	h.bound = netip.AddrPortFrom(loopback4, h.bound.Port())
	at := echo(t, loopback4)
	h.roundTrip(t, to(at), at, "x")
	if res := h.end(t); res.Bound.Addr() != public {
		t.Errorf("%+v", res)
	}
}

func TestIPv6Client(t *testing.T) {
	h := associateOn(t, New(RelayOptions{}), "::1", nil)
	if h.bound.Addr() != loopback6 {
		t.Fatalf("told %v", h.bound)
	}
	at4, at6 := echo(t, loopback4), echo(t, loopback6)
	h.roundTrip(t, to(at4), at4, "four")
	h.roundTrip(t, to(at6), at6, strings.Repeat("x", 60000))
	h.end(t)
}

func TestRefusals(t *testing.T) {
	busy := listenUDP(t, loopback4)
	taken := portOf(busy).Port()
	full := New(RelayOptions{MaxPerUser: 1})
	held := associate(t, full, nil)
	crowded := New(RelayOptions{MaxAssociations: 1})
	alone := associate(t, crowded, nil)
	tests := []struct {
		name  string
		relay *Relay
		user  string
		want  wire.ReplyCode
	}{
		{"disabled", New(RelayOptions{Disabled: true}), "alice", wire.ReplyCommandNotSupported},
		{"no port", New(RelayOptions{Ports: netaddr.PortRange{First: taken, Last: taken}}), "alice", wire.ReplyGeneralFailure},
		{"user's cap", full, "alice", wire.ReplyNotAllowed},
		{"another user", full, "bob", wire.ReplySucceeded},
		{"server's cap", crowded, "bob", wire.ReplyGeneralFailure},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := associate(t, tt.relay, func(s *Request) { s.Identity.User = tt.user })
			if h.code != tt.want {
				t.Errorf("reply %v, want %v", h.code, tt.want)
			}
			if res := h.end(t); res.Reply != tt.want || (res.Reply != wire.ReplySucceeded && res.Err == nil) {
				t.Errorf("%+v", res)
			}
		})
	}
	held.end(t)
	alone.end(t)
	again := associate(t, full, nil)
	if again.code != wire.ReplySucceeded {
		t.Errorf("after the first ended: %v", again.code)
	}
	again.end(t)
}

func TestEnds(t *testing.T) {
	shutdown := errors.New("shutting down")
	tests := []struct {
		name  string
		act   func(*harness)
		meter MeterVerdict
		cause string
	}{
		{"client closes", func(h *harness) { _ = h.control.Close() }, MeterPass, cause.ClientClosed},
		{"client resets", func(h *harness) { _ = h.control.SetLinger(0); _ = h.control.Close() }, MeterPass, cause.ClientReset},
		{"drained", func(h *harness) { h.cancel(shutdown) }, MeterPass, cause.Drained},
		{"quota", func(h *harness) {
			_, _ = h.udp.WriteToUDPAddrPort([]byte("\x00\x00\x00\x01\x7f\x00\x00\x01\x00\x35x"), h.bound)
		}, MeterEnd, cause.Quota},
		{"chatter on the control connection", func(h *harness) { _, _ = h.control.Write(make([]byte, controlBytes)) }, MeterPass, cause.Error},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := metrics.New()
			h := associate(t, New(RelayOptions{Metrics: m}), func(s *Request) {
				s.Meter = func(Direction, int) MeterVerdict { return tt.meter }
			})
			tt.act(h)
			res := h.wait(t)
			if res.Cause != tt.cause {
				t.Errorf("cause %q (%v), want %q", res.Cause, res.Err, tt.cause)
			}
			if tt.cause == cause.Drained && !errors.Is(res.Err, shutdown) {
				t.Errorf("error %v does not say why ctx ended", res.Err)
			}
			if n := m.UDP.Associations.Load(); n != 0 {
				t.Errorf("%d associations left", n)
			}
		})
	}
}

// A datagram for a network instead of a host went to all of its hosts.
func TestOneDatagramIsForOneHost(t *testing.T) {
	m := metrics.New()
	h := associate(t, New(RelayOptions{Metrics: m}), nil)
	for _, ip := range []string{"127.255.255.255", "255.255.255.255", "224.0.0.1", "239.255.255.250", "ff02::1"} {
		h.send(t, wrap(t, wire.Addr{IP: netip.MustParseAddr(ip), Port: 9}, []byte("x")))
	}
	at := echo(t, loopback4)
	h.roundTrip(t, to(at), at, "y")
	eventually(t, "the denials are counted", func() bool { return m.UDP.Datagrams.Of("in", metrics.UDPDenied).Get() == 3 })
	if res := h.end(t); res.DatagramsIn != 1 {
		t.Errorf("%+v", res)
	}
	if n := m.UDP.Datagrams.Of("in", metrics.UDPDenied).Get(); n != 3 {
		t.Errorf("%d denied, want 3", n)
	}
}
