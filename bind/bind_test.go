package bind

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cleversocks/aclsvc"
	"cleversocks/authsvc"
	"cleversocks/conn/cause"
	"cleversocks/conn/netaddr"
	"cleversocks/conn/task"
	"cleversocks/conn/wire"
	"cleversocks/metrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type reply struct {
	code wire.ReplyCode
	addr netip.AddrPort
}

// harness is one BIND with its client.
type harness struct {
	control *net.TCPConn // the client's end
	server  *net.TCPConn
	replies chan reply
	done    chan Result
	cancel  context.CancelCauseFunc
}

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

func start(t *testing.T, s *Server, host string, change func(*Request)) *harness {
	t.Helper()
	control, server := tcpPair(t, host)
	h := &harness{control: control, server: server, replies: make(chan reply, 2), done: make(chan Result, 1)}
	request := Request{
		Control: server, Client: control.LocalAddr().(*net.TCPAddr).AddrPort(),
		Identity:  authsvc.Identity{User: "alice"},
		Requested: wire.Addr{IP: netip.MustParseAddr(host), Port: 21},
		Decide: func(wire.Addr, netip.Addr) aclsvc.Decision {
			return aclsvc.Decision{Allow: true, Rule: "default"}
		},
		Resolve: func(context.Context, wire.Addr) ([]netip.Addr, error) { return nil, net.ErrClosed },
		Reply: func(code wire.ReplyCode, addr netip.AddrPort) error {
			h.replies <- reply{code, addr}
			return nil
		},
	}
	if change != nil {
		change(&request)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	h.cancel = cancel
	t.Cleanup(func() { cancel(nil) })
	go func() { h.done <- s.Serve(ctx, request) }()
	return h
}

func tcpPair(t *testing.T, host string) (client, server *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(); _ = s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func (h *harness) reply(t *testing.T) reply {
	t.Helper()
	select {
	case r := <-h.replies:
		return r
	case <-time.After(10 * time.Second):
		t.Fatal("no reply")
		return reply{}
	}
}

func (h *harness) result(t *testing.T) Result {
	t.Helper()
	select {
	case r := <-h.done:
		if r.Peer != nil {
			t.Cleanup(func() { _ = r.Peer.Close() })
		}
		return r
	case <-time.After(10 * time.Second):
		t.Fatal("Serve did not return")
		return Result{}
	}
}

// dialFrom connects to the opened port from a local address.
func dialFrom(t *testing.T, from string, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.DialContext(t.Context(), "tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.TCPConn)
}

// turnedAway requires that a peer is reset: during connect, or soon after.
func turnedAway(t *testing.T, from string, to netip.AddrPort) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.DialContext(t.Context(), "tcp", to.String())
	if err == nil {
		defer func() { _ = c.Close() }()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the wrong peer got %v, want a reset", err)
	}
}

func TestPeerConnects(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			h := start(t, New(ServerOptions{}), host, nil)
			first := h.reply(t)
			if first.code != wire.ReplySucceeded || first.addr.Addr().String() != host || first.addr.Port() == 0 {
				t.Fatalf("first reply %+v", first)
			}
			peer := dialFrom(t, host, first.addr)
			second := h.reply(t)
			if second.code != wire.ReplySucceeded || second.addr != peer.LocalAddr().(*net.TCPAddr).AddrPort() {
				t.Errorf("second reply %+v, peer is %v", second, peer.LocalAddr())
			}
			r := h.result(t)
			if r.Peer == nil || r.PeerAddr != second.addr || r.Bound != first.addr || r.Rule != "default" {
				t.Fatalf("%+v", r)
			}
			if _, err := r.Peer.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(peer, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			// The listener is closed: nobody else gets in.
			if c, err := net.Dial("tcp", first.addr.String()); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("a second peer: %v, %v", c, err)
			}
			// And the control connection is fit for the relay.
			if _, err := h.control.Write([]byte("y")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(h.server, make([]byte, 1)); err != nil {
				t.Errorf("reading the control connection afterwards: %v", err)
			}
		})
	}
}

func TestWrongPeersAreClosedAndTheWaitGoesOn(t *testing.T) {
	denied := netip.MustParseAddr("127.0.0.7")
	tests := []struct {
		name      string
		options   ServerOptions
		requested wire.Addr
		wrong     string // is turned away; empty: nobody is
		right     string
	}{
		{"another address", ServerOptions{}, wire.Addr{IP: netip.MustParseAddr("127.0.0.2")}, "127.0.0.1", "127.0.0.2"},
		{"any peer", ServerOptions{AnyPeer: true}, wire.Addr{IP: netip.MustParseAddr("127.0.0.2")}, "", "127.0.0.1"},
		{"zeros", ServerOptions{}, wire.Addr{IP: netip.IPv4Unspecified()}, "", "127.0.0.3"},
		{"denied by the rules", ServerOptions{AnyPeer: true}, wire.Addr{}, denied.String(), "127.0.0.1"},
		{"a name", ServerOptions{}, wire.Addr{Name: "ftp.example", Port: 21}, "127.0.0.1", "127.0.0.2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := start(t, New(tt.options), "127.0.0.1", func(s *Request) {
				s.Requested = tt.requested
				s.Decide = func(_ wire.Addr, ip netip.Addr) aclsvc.Decision { return aclsvc.Decision{Allow: ip != denied} }
				s.Resolve = func(context.Context, wire.Addr) ([]netip.Addr, error) {
					return []netip.Addr{netip.MustParseAddr("::ffff:127.0.0.2")}, nil
				}
			})
			at := h.reply(t).addr
			if tt.wrong != "" {
				turnedAway(t, tt.wrong, at)
			}
			right := dialFrom(t, tt.right, at)
			if got := h.reply(t); got.code != wire.ReplySucceeded || got.addr != right.LocalAddr().(*net.TCPAddr).AddrPort() {
				t.Errorf("second reply %+v", got)
			}
			if r := h.result(t); r.Peer == nil {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestNobodyComes(t *testing.T) {
	shutdown := errors.New("shutting down")
	tests := []struct {
		name    string
		timeout time.Duration
		act     func(*harness)
		cause   string
		code    wire.ReplyCode // of the second reply
		replied bool
	}{
		{"timeout", 20 * time.Millisecond, func(*harness) {}, cause.Idle, wire.ReplyTTLExpired, true},
		{"client closes", 0, func(h *harness) { _ = h.control.Close() }, cause.ClientClosed, 0, false},
		{"client resets", 0, func(h *harness) { _ = h.control.SetLinger(0); _ = h.control.Close() }, cause.ClientReset, 0, false},
		{"drained", 0, func(h *harness) { h.cancel(shutdown) }, cause.Drained, wire.ReplyGeneralFailure, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := start(t, New(ServerOptions{AcceptTimeout: tt.timeout}), "127.0.0.1", nil)
			at := h.reply(t).addr
			tt.act(h)
			r := h.result(t)
			if r.Peer != nil || r.Cause != tt.cause || r.Err == nil {
				t.Errorf("%+v", r)
			}
			if tt.replied {
				if got := h.reply(t); got.code != tt.code {
					t.Errorf("second reply %+v, want %v", got, tt.code)
				}
			} else if len(h.replies) != 0 {
				t.Error("a reply to nobody")
			}
			if c, err := net.Dial("tcp", at.String()); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("the port is still open: %v, %v", c, err)
			}
		})
	}
}

// What the client sends before the second reply is the peer's.
func TestEarlyBytesAreKept(t *testing.T) {
	h := start(t, New(ServerOptions{}), "127.0.0.1", nil)
	at := h.reply(t).addr
	if _, err := h.control.Write([]byte("early")); err != nil {
		t.Fatal(err)
	}
	dialFrom(t, "127.0.0.1", at)
	h.reply(t)
	r := h.result(t)
	// The bytes are in Early, or still in the connection if the peer was faster.
	rest := make([]byte, 5-len(r.Early))
	if _, err := io.ReadFull(h.server, rest); err != nil {
		t.Fatal(err)
	}
	if got := string(r.Early) + string(rest); got != "early" {
		t.Errorf("%q", got)
	}
}

func TestRefusedAtOnce(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = busy.Close() })
	taken := busy.Addr().(*net.TCPAddr).AddrPort().Port()
	tests := []struct {
		name    string
		options ServerOptions
		change  func(*Request)
		want    wire.ReplyCode
	}{
		{"disabled", ServerOptions{Disabled: true}, nil, wire.ReplyCommandNotSupported},
		{"no port", ServerOptions{Ports: netaddr.PortRange{First: taken, Last: taken}}, nil, wire.ReplyGeneralFailure},
		{"no such name", ServerOptions{}, func(s *Request) { s.Requested = wire.Addr{Name: "nowhere.example"} }, wire.ReplyHostUnreachable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := start(t, New(tt.options), "127.0.0.1", tt.change)
			if got := h.reply(t); got.code != tt.want {
				t.Errorf("reply %v, want %v", got.code, tt.want)
			}
			if r := h.result(t); r.Peer != nil || r.Reply != tt.want || r.Err == nil {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestAdvertisedAddressPortRangeAndCap(t *testing.T) {
	s := New(ServerOptions{Ports: netaddr.PortRange{First: 42000, Last: 42999}, MaxPerUser: 1})
	public := netip.MustParseAddr("203.0.113.7")
	h := start(t, s, "127.0.0.1", func(s *Request) { s.Advertise = public })
	at := h.reply(t).addr
	if at.Addr() != public || at.Port() < 42000 || at.Port() > 42999 {
		t.Errorf("told %v", at)
	}
	second := start(t, s, "127.0.0.1", nil)
	if got := second.reply(t); got.code != wire.ReplyNotAllowed {
		t.Errorf("past the cap: %v", got.code)
	}
	second.result(t)
	bob := start(t, s, "127.0.0.1", func(s *Request) { s.Identity.User = "bob" })
	if got := bob.reply(t); got.code != wire.ReplySucceeded {
		t.Errorf("another user: %v", got.code)
	}
	dialFrom(t, "127.0.0.1", netip.AddrPortFrom(loopback, at.Port()))
	if r := h.result(t); r.Peer == nil {
		t.Fatalf("%+v", r)
	}
	// The seat is free again.
	third := start(t, s, "127.0.0.1", nil)
	if got := third.reply(t); got.code != wire.ReplySucceeded {
		t.Errorf("after the first ended: %v", got.code)
	}
	third.cancel(nil)
	third.result(t)
	bob.cancel(nil)
	bob.result(t)
}

// A rule about a name did not see a peer of that name: what it denies could
// connect, and what only it allows could not.
func TestPeerIsJudgedByItsName(t *testing.T) {
	judged := make(chan wire.Addr, 1)
	for name, anyPeer := range map[string]bool{"the named one": false, "anyone": true} {
		t.Run(name, func(t *testing.T) {
			h := start(t, New(ServerOptions{AnyPeer: anyPeer}), "127.0.0.1", func(s *Request) {
				s.Requested = wire.Addr{Name: "ftp.example.com", Port: 21}
				s.Resolve = func(context.Context, wire.Addr) ([]netip.Addr, error) { return []netip.Addr{loopback}, nil }
				s.Decide = func(dest wire.Addr, _ netip.Addr) aclsvc.Decision {
					judged <- dest
					return aclsvc.Decision{Allow: true}
				}
			})
			peer := dialFrom(t, "127.0.0.1", h.reply(t).addr)
			from := peer.LocalAddr().(*net.TCPAddr).AddrPort()
			want := wire.Addr{Name: "ftp.example.com", Port: from.Port()}
			if anyPeer { // nothing says that it is of that name
				want = wire.FromAddrPort(from)
			}
			if got := <-judged; got != want {
				t.Errorf("judged as %+v, want %+v", got, want)
			}
			if got := h.result(t).Judged; got != want {
				t.Errorf("said to be judged as %+v, want %+v", got, want)
			}
		})
	}
}

// A panic while a BIND waits ends that wait: it is counted, the client is told,
// the port is closed, and the user's place is free again.
func TestPanicEndsOneWait(t *testing.T) {
	m := metrics.New()
	panics := &task.Reporter{Count: func(where string) { m.Conn.Panics.Of(where).Inc() }}
	s := New(ServerOptions{MaxPerUser: 1, Metrics: m, Panics: panics})
	h := start(t, s, "127.0.0.1", func(request *Request) {
		request.Decide = func(wire.Addr, netip.Addr) aclsvc.Decision { panic("a defect") }
	})
	first := h.reply(t)
	dialFrom(t, "127.0.0.1", first.addr)
	if r := h.reply(t); r.code != wire.ReplyGeneralFailure {
		t.Errorf("reply %v", r.code)
	}
	if r := h.result(t); r.Peer != nil || r.Cause != cause.Error {
		t.Errorf("%+v", r)
	}
	if n := m.Conn.Panics.Of("bind").Get(); n != 1 {
		t.Errorf("%d panics counted, want 1", n)
	}
	again := start(t, s, "127.0.0.1", nil)
	if r := again.reply(t); r.code != wire.ReplySucceeded {
		t.Errorf("the next BIND of the user: %v", r.code)
	}
	_ = again.control.Close()
	again.result(t)
}

// Of the addresses of a name the port faces one of the client's own family, if there
// is one: a client of SOCKS4 could not be told of the other.
func TestFacesThePeerOfTheClientsFamily(t *testing.T) {
	_, control := tcpPair(t, "127.0.0.1")
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, c := range []struct {
		requested wire.Addr
		peers     []netip.Addr
		want      netip.Addr
	}{
		{wire.Addr{Name: "ftp.example"}, []netip.Addr{six, four}, four},
		{wire.Addr{Name: "ftp.example"}, []netip.Addr{six}, six},
		{wire.Addr{IP: six}, nil, six}, // any peer may connect, and this one is expected
		{wire.Addr{IP: netip.IPv4Unspecified()}, nil, netip.Addr{}},
	} {
		var asked netip.Addr
		request := Request{Control: control, Requested: c.requested, Facing: func(peer, _ netip.Addr) (netip.Addr, SetUp, error) {
			asked = peer
			return netip.Addr{}, nil, nil
		}}
		if at, _, err := facing(&request, c.peers); asked != c.want || err != nil || at.String() != "127.0.0.1" {
			t.Errorf("%v: faces %s, at %s, %v", c.requested, asked, at, err)
		}
	}
}
