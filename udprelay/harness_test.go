package udprelay

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"cleversocks/aclsvc"
	"cleversocks/authsvc"
	"cleversocks/conn/wire"
)

// harness is one association with its client: a real control connection, a
// real UDP socket.
type harness struct {
	control *net.TCPConn // the client's end
	server  *net.TCPConn
	udp     *net.UDPConn // the client's socket
	code    wire.ReplyCode
	bound   netip.AddrPort
	cancel  context.CancelCauseFunc
	done    chan Result
}

func allowAll(wire.Addr, netip.Addr) aclsvc.Decision {
	return aclsvc.Decision{Allow: true, Rule: "default"}
}

func noResolver(context.Context, wire.Addr) ([]netip.Addr, error) { return nil, net.ErrClosed }

// associate starts an association on r whose request change may alter.
func associate(t *testing.T, r *Relay, change func(*Request)) *harness {
	t.Helper()
	return associateOn(t, r, "127.0.0.1", change)
}

func associateOn(t *testing.T, r *Relay, host string, change func(*Request)) *harness {
	t.Helper()
	control, server := tcpPair(t, host)
	client := control.LocalAddr().(*net.TCPAddr).AddrPort()
	replied := make(chan struct{})
	h := &harness{control: control, server: server, done: make(chan Result, 1)}
	s := Request{
		ID: t.Name(), Control: server, Client: client, Identity: authsvc.Identity{User: "alice"},
		Decide: allowAll, Resolve: noResolver,
		Reply: func(code wire.ReplyCode, bound netip.AddrPort) error {
			h.code, h.bound = code, bound
			close(replied)
			return nil
		},
	}
	if change != nil {
		change(&s)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	h.cancel = cancel
	go func() { h.done <- r.Serve(ctx, s) }()
	select {
	case <-replied:
	case <-t.Context().Done():
	}
	h.udp = listenUDP(t, client.Addr())
	t.Cleanup(func() { _ = control.Close() })
	return h
}

func tcpPair(t *testing.T, host string) (client, server *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func listenUDP(t *testing.T, ip netip.Addr) *net.UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func portOf(c *net.UDPConn) netip.AddrPort {
	ap := c.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// echo answers every datagram with itself.
func echo(t *testing.T, ip netip.Addr) netip.AddrPort {
	t.Helper()
	conn := listenUDP(t, ip)
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = conn.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	return portOf(conn)
}

// wrap is payload with a header for dest.
func wrap(t *testing.T, dest wire.Addr, payload []byte) []byte {
	t.Helper()
	b, err := wire.AppendUDPHeader(nil, dest)
	if err != nil {
		t.Fatal(err)
	}
	return append(b, payload...)
}

func to(ap netip.AddrPort) wire.Addr { return wire.FromAddrPort(ap) }

// send sends raw bytes to the relay.
func (h *harness) send(t *testing.T, b []byte) {
	t.Helper()
	if _, err := h.udp.WriteToUDPAddrPort(b, h.bound); err != nil {
		t.Fatal(err)
	}
}

// receive takes the next datagram from the relay apart.
func (h *harness) receive(t *testing.T) (from wire.Addr, payload []byte) {
	t.Helper()
	buf := make([]byte, 1<<16)
	_ = h.udp.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := h.udp.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	head, at, err := wire.ParseUDPHeader(buf[:n])
	if err != nil {
		t.Fatal(err)
	}
	from, err = head.Dest.Addr()
	if err != nil {
		t.Fatal(err)
	}
	return from, buf[at:n]
}

// roundTrip sends payload to dest and requires it back from the address.
func (h *harness) roundTrip(t *testing.T, dest wire.Addr, at netip.AddrPort, payload string) {
	t.Helper()
	h.send(t, wrap(t, dest, []byte(payload)))
	from, got := h.receive(t)
	if from.AddrPort() != at || string(got) != payload {
		t.Fatalf("%d bytes %.40q from %v; want %d bytes %.40q from %v", len(got), got, from, len(payload), payload, at)
	}
}

// end closes the control connection and waits for the result.
func (h *harness) end(t *testing.T) Result {
	t.Helper()
	_ = h.control.Close()
	defer func() { _ = h.server.Close(); _ = h.udp.Close() }()
	return h.wait(t)
}

func (h *harness) wait(t *testing.T) Result {
	t.Helper()
	select {
	case res := <-h.done:
		return res
	case <-time.After(20 * time.Second):
		t.Fatal("the association did not end")
		return Result{}
	}
}

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("it never came about that %s", what)
		}
		time.Sleep(2 * time.Millisecond) //nolint:forbidigo // between two looks
	}
}
