package e2e

import (
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"cleversocks/authsvc/gssapi"
	"cleversocks/authsvc/gssapi/gsstest"
)

// protected is a daemon with Kerberos, and a client of our own that protects
// what it says.
type protected struct {
	*daemon
	forger  *gsstest.KDC
	version int
	keytab  string
	k       *kdc
}

func startProtected(t *testing.T, more string) *protected {
	t.Helper()
	k := startKDC(t)
	path := k.keytab("rcmd/localhost")
	forger, version := k.tickets(path)
	return &protected{daemon: start(t, "[auth.gssapi]\nkeytab = \""+path+"\"\n"+more), forger: forger, version: version, keytab: path, k: k}
}

// dial logs alice in. raw is the socket below.
func (p *protected) dial(level gssapi.Level) (c *gssapi.Conn, context *gssapi.Context, raw *net.TCPConn) {
	p.t.Helper()
	raw = dialProxy(p.t, p.address)
	one, context, err := p.forger.Dial(raw, gsstest.Login{Client: "alice", Service: "rcmd/localhost", KVNO: p.version, EType: 20}, level)
	if err != nil {
		p.t.Fatal(err)
	}
	return one.(*gssapi.Conn), context, raw
}

// tunnel opens one, and returns both of its ends.
func (p *protected) tunnel(level gssapi.Level) (c *gssapi.Conn, context *gssapi.Context, raw, server *net.TCPConn) {
	p.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.t.Fatal(err)
	}
	defer l.Close()
	c, context, raw = p.dial(level)
	if got := request(p.t, c, 1, l.Addr().(*net.TCPAddr).AddrPort()); got != succeeded {
		p.t.Fatalf("reply %d", got)
	}
	accepted, err := l.Accept()
	if err != nil {
		p.t.Fatal(err)
	}
	server = accepted.(*net.TCPConn)
	p.t.Cleanup(func() { server.Close() })
	_ = server.SetDeadline(time.Now().Add(patience))
	return c, context, raw, server
}

var protections = []gssapi.Level{gssapi.LevelIntegrity, gssapi.LevelConfidentiality}

// An end of stream passes through a wrapped tunnel one way and leaves the other
// open, whoever says it first.
func TestWrappedHalfClose(t *testing.T) {
	p := startProtected(t, "")
	before := p.baseline()
	big := bytes.Repeat([]byte("0123456789abcdef"), 60_000)
	for _, level := range protections {
		for _, first := range []string{"client", "server"} {
			c, _, raw, server := p.tunnel(level)
			ends := map[string][2]net.Conn{"client": {c, server}, "server": {server, c}}[first]
			go func() {
				_, _ = ends[0].Write(big)
				_ = ends[0].(interface{ CloseWrite() error }).CloseWrite()
			}()
			if got, err := io.ReadAll(ends[1]); err != nil || !bytes.Equal(got, big) {
				t.Errorf("%s, %s first: %d bytes, %v", level, first, len(got), err)
			}
			go func() {
				_, _ = ends[1].Write(big)
				_ = ends[1].(interface{ CloseWrite() error }).CloseWrite()
			}()
			if got, err := io.ReadAll(ends[0]); err != nil || !bytes.Equal(got, big) {
				t.Errorf("%s, the other way after %s: %d bytes, %v", level, first, len(got), err)
			}
			at := raw.LocalAddr().String()
			if got := p.find("of the tunnel", func(l line) bool { return l["msg"] == "connection" && l["client"] == at }); got["cause"] != first+"_closed" || got["bytes_in"] != float64(len(big)) || got["bytes_out"] != float64(len(big)) {
				t.Errorf("recorded as %v", got)
			}
			c.Close()
			server.Close()
		}
	}
	p.backTo(before)
}

// A reset passes through as one, behind what was said before.
func TestWrappedResets(t *testing.T) {
	p := startProtected(t, "")
	before := p.baseline()
	for _, level := range protections {
		for _, from := range []string{"client", "server"} {
			c, _, raw, server := p.tunnel(level)
			ends := map[string][2]net.Conn{"client": {c, server}, "server": {server, c}}[from]
			send(t, ends[0], []byte("last words")...)
			if got := receive(t, ends[1], len("last words")); string(got) != "last words" {
				t.Fatalf("%q", got)
			}
			if from == "client" {
				_ = raw.SetLinger(0)
			} else {
				_ = server.SetLinger(0)
			}
			ends[0].Close()
			if _, err := ends[1].Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s: the other side of %s sees %v, want a reset", level, from, err)
			}
			at := raw.LocalAddr().String()
			if got := p.find("of the reset", func(l line) bool { return l["msg"] == "connection" && l["client"] == at }); got["cause"] != from+"_reset" {
				t.Errorf("recorded as %v", got)
			}
			c.Close()
			server.Close()
		}
	}
	p.backTo(before)
}

// Somebody on the path changes a message, leaves one out, sends one twice, takes
// its protection off, or breaks off in the middle of one: nothing of it reaches
// the server, which sees a reset and no clean end behind half of a request.
func TestWrappedMessagesThatAreNot(t *testing.T) {
	p := startProtected(t, "")
	before := p.baseline()
	for _, level := range protections {
		seal := level == gssapi.LevelConfidentiality
		for name, change := range map[string]func(c *gssapi.Context, raw *net.TCPConn, message []byte) []byte{
			"changed":  func(_ *gssapi.Context, _ *net.TCPConn, m []byte) []byte { m[len(m)/2] ^= 1; return m },
			"left out": func(c *gssapi.Context, _ *net.TCPConn, _ []byte) []byte { return c.Wrap(nil, []byte("second"), seal) },
			"not sealed": func(c *gssapi.Context, _ *net.TCPConn, m []byte) []byte {
				return append(m[:2:2], append([]byte{m[2] ^ 2}, m[3:]...)...)
			},
			"empty": func(*gssapi.Context, *net.TCPConn, []byte) []byte { return nil },
			"cut":   func(_ *gssapi.Context, raw *net.TCPConn, m []byte) []byte { return m },
		} {
			c, context, raw, server := p.tunnel(level)
			send(t, c, []byte("good")...)
			if got := receive(t, server, 4); string(got) != "good" {
				t.Fatalf("%q", got)
			}
			frame := gssapi.AppendFrame(nil, 3, change(context, raw, context.Wrap(nil, []byte("forged"), seal)))
			if name == "cut" {
				send(t, raw, frame[:len(frame)-1]...)
				_ = raw.CloseWrite()
			} else {
				send(t, raw, frame...)
			}
			if got, err := io.ReadAll(server); len(got) > 0 || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s, %s: the server reads %q, %v", level, name, got, err)
			}
			at := raw.LocalAddr().String()
			if got := p.find("of the end", func(l line) bool { return l["msg"] == "connection" && l["client"] == at }); got["err"] == nil {
				t.Errorf("%s, %s: recorded as %v", level, name, got)
			}
			c.Close()
			server.Close()
		}
	}
	p.backTo(before)
}

// BIND behind a protected log-in: both replies and the bytes both ways are
// wrapped.
func TestWrappedBind(t *testing.T) {
	p := startProtected(t, "")
	for _, level := range protections {
		c, _, _ := p.dial(level)
		send(t, c, 5, 2, 0, 1, 127, 0, 0, 1, 0, 0)
		code, at := bindReply(t, c)
		if code != succeeded {
			t.Fatalf("first reply %d", code)
		}
		peer, err := connectFrom(t, "127.0.0.1", at)
		if err != nil {
			t.Fatal(err)
		}
		code, from := bindReply(t, c)
		if code != succeeded || from != peer.LocalAddr().(*net.TCPAddr).AddrPort() {
			t.Fatalf("second reply %d, %s", code, from)
		}
		big := bytes.Repeat([]byte("bound"), 100_000)
		go func() { _, _ = peer.Write(big); _ = peer.CloseWrite() }()
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, big) {
			t.Errorf("%s: %d bytes from the peer, %v", level, len(got), err)
		}
		go func() { _, _ = c.Write(big); _ = c.CloseWrite() }()
		if got, err := io.ReadAll(peer); err != nil || !bytes.Equal(got, big) {
			t.Errorf("%s: %d bytes to the peer, %v", level, len(got), err)
		}
	}
}

// UDP behind a protected log-in: every datagram is wrapped by itself, up to the
// largest that fits, and what is not wrapped goes nowhere.
func TestWrappedDatagrams(t *testing.T) {
	p := startProtected(t, "")
	echo := udpEcho(t, "127.0.0.1:0")
	for _, level := range protections {
		c, context, _ := p.dial(level)
		send(t, c, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0)
		code, at := bindReply(t, c)
		if code != succeeded {
			t.Fatalf("reply %d", code)
		}
		udp, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(at))
		if err != nil {
			t.Fatal(err)
		}
		defer udp.Close()
		_ = udp.SetDeadline(time.Now().Add(patience))
		near := gssapi.NewConn(c, c, context, level).Datagrams()
		head := header(0, "127.0.0.1", echo.Port())
		largest := min(near.MaxDatagram(), 65507-4-context.Overhead(level == gssapi.LevelConfidentiality)) - len(head)
		bare := append(bytes.Clone(head), "bare"...)
		if _, err := udp.Write(bare); err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{0, 1, 1000, 9000, largest} {
			payload := bytes.Repeat([]byte{byte(n)}, n)
			if _, err := udp.Write(near.WrapDatagram(nil, append(bytes.Clone(head), payload...))); err != nil {
				t.Fatal(n, err)
			}
			buf := make([]byte, 65536)
			got, err := udp.Read(buf)
			if err != nil {
				t.Fatal(level, n, err)
			}
			plain, err := near.UnwrapDatagram(buf[:got])
			if err != nil || !bytes.Equal(plain[len(head):], payload) || !bytes.Equal(plain[:len(head)], head) {
				t.Errorf("%s, %d bytes: % x, %v", level, n, plain[:min(len(plain), 20)], err)
			}
		}
		if level == gssapi.LevelConfidentiality && bytes.Contains(near.WrapDatagram(nil, bare), []byte("bare")) {
			t.Error("sealed, and readable")
		}
	}
}
