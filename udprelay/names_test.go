package udprelay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"cleversocks/aclsvc"
	"cleversocks/conn/cause"
	"cleversocks/conn/wire"
	"cleversocks/metrics"
)

// A name that takes long holds up its own datagrams alone; they go out, in
// their number, once it is known.
func TestSlowNameStallsNothing(t *testing.T) {
	release := make(chan struct{})
	var asked atomic.Int64
	h := associate(t, New(RelayOptions{}), func(s *Request) {
		s.Resolve = func(ctx context.Context, dest wire.Addr) ([]netip.Addr, error) {
			asked.Add(1)
			if dest.Name == "slow.example" {
				select {
				case <-release:
				case <-ctx.Done():
				}
			}
			return []netip.Addr{loopback4}, ctx.Err()
		}
	})
	at := echo(t, loopback4)
	for range 3 {
		h.send(t, wrap(t, wire.Addr{Name: "slow.example", Port: at.Port()}, []byte("slow")))
	}
	h.roundTrip(t, to(at), at, "an address")
	h.roundTrip(t, wire.Addr{Name: "quick.example", Port: at.Port()}, at, "a name")
	close(release)
	for range 3 {
		if from, got := h.receive(t); from.AddrPort() != at || string(got) != "slow" {
			t.Errorf("%q from %v", got, from)
		}
	}
	h.roundTrip(t, wire.Addr{Name: "slow.example", Port: at.Port()}, at, "known by now")
	if n := asked.Load(); n != 2 {
		t.Errorf("the resolver was asked %d times, want 2", n)
	}
	h.end(t)
}

func TestLiteralInAName(t *testing.T) {
	var seen atomic.Pointer[wire.Addr]
	h := associate(t, New(RelayOptions{}), func(s *Request) {
		s.Decide = func(dest wire.Addr, _ netip.Addr) aclsvc.Decision {
			seen.Store(&dest)
			return aclsvc.Decision{Allow: true}
		}
	})
	at := echo(t, loopback6)
	h.roundTrip(t, wire.Addr{Name: "[::1]", Port: at.Port()}, at, "x")
	if dest := seen.Load(); dest == nil || dest.IsName() || dest.IP != loopback6 {
		t.Errorf("judged as %v", dest)
	}
	h.end(t)
}

// Denied addresses of a name drop out; the next one is taken.
func TestNamesAddressesAreJudged(t *testing.T) {
	forbidden := netip.MustParseAddr("127.0.0.9")
	h := associate(t, New(RelayOptions{}), func(s *Request) {
		s.Resolve = func(context.Context, wire.Addr) ([]netip.Addr, error) {
			return []netip.Addr{forbidden, loopback4}, nil
		}
		s.Decide = func(dest wire.Addr, ip netip.Addr) aclsvc.Decision {
			return aclsvc.Decision{Allow: dest.Name == "a.example" && ip != forbidden}
		}
	})
	at := echo(t, loopback4)
	h.roundTrip(t, wire.Addr{Name: "A.Example.", Port: at.Port()}, at, "x")
	h.end(t)
}

// A client can make us neither remember nor ask without end.
func TestNameFloodIsBounded(t *testing.T) {
	m := metrics.New()
	var asked atomic.Int64
	h := associate(t, New(RelayOptions{Metrics: m}), func(s *Request) {
		s.Resolve = func(ctx context.Context, _ wire.Addr) ([]netip.Addr, error) {
			asked.Add(1)
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	at := echo(t, loopback4)
	for i := range 100 {
		h.send(t, wrap(t, wire.Addr{Name: fmt.Sprintf("n%d.example", i), Port: 53}, make([]byte, 100)))
	}
	h.roundTrip(t, to(at), at, "served all the same")
	eventually(t, "the rest is counted", func() bool { return m.UDP.Datagrams.Of("in", metrics.UDPOverload).Get() == 100-lookups })
	h.end(t)
	if n := asked.Load(); n > lookups {
		t.Errorf("%d look-ups at once", n)
	}
	if n := m.UDP.Datagrams.Of("in", metrics.UDPOverload).Get(); n != 100-lookups {
		t.Errorf("%d datagrams dropped, want %d", n, 100-lookups)
	}
}

// An unknown name is asked for once in a while, not once per datagram.
func TestUnknownName(t *testing.T) {
	m := metrics.New()
	asked := make(chan struct{}, 10)
	h := associate(t, New(RelayOptions{Metrics: m}), func(s *Request) {
		s.Resolve = func(context.Context, wire.Addr) ([]netip.Addr, error) {
			asked <- struct{}{}
			return nil, errors.New("no such host")
		}
	})
	at := echo(t, loopback4)
	name := wire.Addr{Name: "nowhere.example", Port: 53}
	h.send(t, wrap(t, name, []byte("x")))
	<-asked
	unresolved := m.UDP.Datagrams.Of("in", metrics.UDPUnresolved)
	eventually(t, "the datagram is given up", func() bool { return unresolved.Get() == 1 })
	h.send(t, wrap(t, name, []byte("x"))) // not asked for again so soon
	h.roundTrip(t, to(at), at, "y")
	eventually(t, "the second is given up", func() bool { return unresolved.Get() == 2 })
	if res := h.end(t); res.DatagramsIn != 1 {
		t.Errorf("%+v", res)
	}
	if n := unresolved.Get(); n != 2 || len(asked) != 0 {
		t.Errorf("%d unresolved datagrams, want 2; asked %d times more", n, len(asked))
	}
}

// A datagram to a name that the rules deny counted as one whose name has no
// address: an operator looked for the fault in DNS.
func TestDeniedName(t *testing.T) {
	m := metrics.New()
	h := associate(t, New(RelayOptions{Metrics: m}), func(s *Request) {
		s.Resolve = func(context.Context, wire.Addr) ([]netip.Addr, error) {
			return nil, fmt.Errorf("acl.rules[0]: %w", ErrDenied)
		}
	})
	for range 2 { // the second while the first's look-up is remembered
		h.send(t, wrap(t, wire.Addr{Name: "evil.example", Port: 53}, []byte("x")))
	}
	eventually(t, "both are denied", func() bool { return m.UDP.Datagrams.Of("in", metrics.UDPDenied).Get() == 2 })
	h.end(t)
	if n := m.UDP.Datagrams.Of("in", metrics.UDPUnresolved).Get(); n != 0 {
		t.Errorf("%d are unresolved", n)
	}
}

// fakeUpstream is a SOCKS5 relay's datagram half that answers for its
// destinations, with itself in between.
func fakeUpstream(t *testing.T, seen chan<- wire.Addr, answerFrom wire.Addr) (netip.AddrPort, *net.UDPConn) {
	t.Helper()
	conn := listenUDP(t, loopback4)
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			h, at, err := wire.ParseUDPHeader(buf[:n])
			if err != nil {
				return
			}
			dest, err := h.Dest.Addr()
			if err != nil {
				return
			}
			seen <- dest
			out, err := wire.AppendUDPHeader(nil, answerFrom)
			if err != nil {
				return
			}
			_, _ = conn.WriteToUDPAddrPort(append(out, buf[at:n]...), from)
		}
	}()
	return portOf(conn), conn
}

func TestUpstream(t *testing.T) {
	seen := make(chan wire.Addr, 10)
	answer := netip.MustParseAddrPort("192.0.2.1:53")
	at, relay := fakeUpstream(t, seen, to(answer))
	kept, ours := tcpPair(t, "127.0.0.1")
	stranger := listenUDP(t, loopback4)
	denied := netip.MustParseAddr("192.0.2.66")
	h := associate(t, New(RelayOptions{}), func(s *Request) {
		s.Upstream = func(context.Context) (Upstream, error) { return Upstream{Relay: at, Control: ours}, nil }
		s.Decide = func(dest wire.Addr, ip netip.Addr) aclsvc.Decision {
			return aclsvc.Decision{Allow: ip != denied && (ip.IsValid() != dest.IsName())}
		}
	})
	h.send(t, wrap(t, wire.Addr{IP: denied, Port: 53}, []byte("denied")))
	for _, dest := range []wire.Addr{
		{Name: "far.example", Port: 53},
		{IP: netip.MustParseAddr("192.0.2.1"), Port: 53},
		{IP: netip.MustParseAddr("2001:db8::1"), Port: 443},
	} {
		h.roundTrip(t, dest, answer, "through")
		if got := <-seen; got != dest {
			t.Errorf("the upstream saw %v, want %v", got, dest)
		}
	}
	_ = relay.Close()
	_ = stranger.Close()
	_ = kept.Close() // the upstream gives up
	if res := h.wait(t); res.Cause != cause.ServerClosed || res.DatagramsIn != 3 || res.DatagramsOut != 3 {
		t.Errorf("%+v", res)
	}
}

func TestUpstreamRefuses(t *testing.T) {
	refused := errors.New("upstream says no")
	h := associate(t, New(RelayOptions{}), func(s *Request) {
		s.Upstream = func(context.Context) (Upstream, error) { return Upstream{}, refused }
	})
	if res := h.wait(t); h.code != wire.ReplyGeneralFailure || !errors.Is(res.Err, refused) {
		t.Errorf("reply %v, %+v", h.code, res)
	}
}

func TestUnwrap(t *testing.T) {
	tests := []struct {
		name, in, want string
		ok             bool
	}{
		{"address", "\x00\x00\x00\x01\xc0\x00\x02\x01\x00\x35x", "\x00\x00\x00\x01\xc0\x00\x02\x01\x00\x35x", true},
		{"literal as a name", "\x00\x00\x00\x03\x09192.0.2.1\x00\x35x", "\x00\x00\x00\x01\xc0\x00\x02\x01\x00\x35x", true},
		{"name", "\x00\x00\x00\x03\x01a\x00\x35x", "", false},
		{"fragment", "\x00\x00\x01\x01\xc0\x00\x02\x01\x00\x35x", "", false},
		{"runt", "\x00\x00", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			head, payload, _, ok := unwrap(nil, []byte(tt.in))
			if got := string(head) + string(payload); ok != tt.ok || got != tt.want {
				t.Errorf("%q, %v; want %q, %v", got, ok, tt.want, tt.ok)
			}
		})
	}
}
