package e2e

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// bindReply reads one reply of SOCKS5.
func bindReply(t *testing.T, c net.Conn) (code byte, addr netip.AddrPort) {
	t.Helper()
	head := receive(t, c, 4)
	size := map[byte]int{1: 4, 4: 16}[head[3]]
	rest := receive(t, c, size+2)
	ip, _ := netip.AddrFromSlice(rest[:size])
	return head[1], netip.AddrPortFrom(ip, uint16(rest[size])<<8|uint16(rest[size+1]))
}

// askBind asks to wait for a peer, and returns the first reply.
func askBind(t *testing.T, proxy string, peer netip.Addr) (c *net.TCPConn, code byte, at netip.AddrPort) {
	t.Helper()
	c = dialProxy(t, proxy)
	send(t, c, 5, 1, 0)
	receive(t, c, 2)
	send(t, c, append(append([]byte{5, 2, 0, 1}, peer.AsSlice()...), 0, 0)...)
	code, at = bindReply(t, c)
	return c, code, at
}

// connectFrom connects to the proxy's port from an address.
func connectFrom(t *testing.T, from string, to netip.AddrPort) (*net.TCPConn, error) {
	t.Helper()
	c, err := net.DialTCP("tcp", &net.TCPAddr{IP: net.ParseIP(from)}, net.TCPAddrFromAddrPort(to))
	if err == nil {
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(patience))
	}
	return c, err
}

var anyone = netip.IPv4Unspecified()

// Two replies, bytes both ways, and nobody but the peer that was named.
func TestBind(t *testing.T) {
	d := start(t, "")
	before := d.baseline()
	c, code, at := askBind(t, d.address, netip.MustParseAddr("127.0.0.2"))
	if code != succeeded || at.Addr().String() != "127.0.0.1" || at.Port() == 0 {
		t.Fatalf("first reply %d, %s", code, at)
	}
	send(t, c, []byte("early")...)                                 // before the peer is there
	if wrong, err := connectFrom(t, "127.0.0.3", at); err == nil { // else it was reset before it heard that it is connected
		if n, err := wrong.Read(make([]byte, 1)); err == nil {
			t.Errorf("a stranger reads %d bytes", n)
		}
	} else if !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	peer, err := connectFrom(t, "127.0.0.2", at)
	if err != nil {
		t.Fatal(err)
	}
	code, from := bindReply(t, c)
	if code != succeeded || from.String() != peer.LocalAddr().String() {
		t.Errorf("second reply %d, %s, want %s", code, from, peer.LocalAddr())
	}
	if got := receive(t, peer, 5); string(got) != "early" {
		t.Errorf("the peer reads %q", got)
	}
	send(t, peer, []byte("hello")...)
	if got := receive(t, c, 5); string(got) != "hello" {
		t.Errorf("the client reads %q", got)
	}
	if _, err := connectFrom(t, "127.0.0.2", at); err == nil {
		t.Error("a second peer connects")
	}
	peer.Close()
	c.Close()
	l := d.find("of it", func(l line) bool { return l["msg"] == "connection" })
	if l.text("command") != "bind" || l.text("host_ip") != from.String() || l.text("local") != at.String() ||
		l.text("bytes_in") != "5" || l.text("bytes_out") != "5" || l.text("reply") != "succeeded" {
		t.Errorf("recorded as %v", l)
	}
	if got := d.settles(`cleversocks_bind_peers_total{outcome="wrong_peer"}`, "1"); got != "1" {
		t.Errorf("%s wrong peers", got)
	}
	d.backTo(before)
}

func TestSOCKS4Bind(t *testing.T) {
	d := start(t, "")
	c := dialProxy(t, d.address)
	code, at := socks4Request(t, c, 2, netip.MustParseAddrPort("127.0.0.1:0"))
	if code != 90 || at.Port() == 0 {
		t.Fatalf("first reply %d, %s", code, at)
	}
	peer, err := connectFrom(t, "127.0.0.1", at)
	if err != nil {
		t.Fatal(err)
	}
	if code, from := socks4Reply(t, c); code != 90 || from.String() != peer.LocalAddr().String() {
		t.Errorf("second reply %d, %s", code, from)
	}
	send(t, peer, []byte("hello")...)
	if got := receive(t, c, 5); string(got) != "hello" {
		t.Errorf("the client reads %q", got)
	}
}

// Ports, an advertised address, any peer, a cap, a time-out, and off.
func TestBindSettings(t *testing.T) {
	const admin = "[admin]\naddress = \"127.0.0.1:0\"\n"
	listener := "[[listener]]\naddress = \"127.0.0.1:" + freePort(t) + "\"\n"
	config := writeFile(t, "c.toml", listener+"advertise = \"203.0.113.7\"\n[bind]\nports = \"19110-19115\"\nany_peer = true\nmax_per_user = 1\naccept_timeout = \"1h\"\n"+admin)
	d := startProgram(t, "--config", config, "--log-format", "json")
	c, code, at := askBind(t, d.address, netip.MustParseAddr("127.0.0.2"))
	if code != succeeded || at.Addr().String() != "203.0.113.7" || at.Port() < 19110 || at.Port() > 19115 {
		t.Fatalf("reply %d, %s", code, at)
	}
	if _, code, _ := askBind(t, d.address, anyone); code != notAllowed {
		t.Errorf("the second of a user who has one: reply %d", code)
	}
	if _, err := connectFrom(t, "127.0.0.9", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), at.Port())); err != nil {
		t.Fatal(err)
	}
	if code, _ := bindReply(t, c); code != succeeded {
		t.Errorf("any peer: reply %d", code)
	}
	rewrite(t, config, listener+"[bind]\naccept_timeout = \"1s\"\n"+admin)
	d.signal(syscall.SIGHUP)
	d.waitLine("generation", "2")
	c, code, _ = askBind(t, d.address, anyone)
	if code != succeeded {
		t.Fatalf("reply %d", code)
	}
	if code, _ := bindReply(t, c); code != 6 {
		t.Errorf("nobody came: reply %d", code)
	}
	d.find("of the time-out", func(l line) bool { return l["msg"] == "connection" && l.text("reply") == "timed_out" })
	rewrite(t, config, listener+"[bind]\nenabled = false\n"+admin)
	d.signal(syscall.SIGHUP)
	d.waitLine("generation", "3")
	if _, code, _ := askBind(t, d.address, anyone); code != cmdUnsupported {
		t.Errorf("turned off: reply %d", code)
	}
}

// A client that leaves while it waits closes its port, and a drain ends the
// wait with a reply.
func TestBindEnds(t *testing.T) {
	d := start(t, "[drain]\ntimeout = \"1s\"\n")
	before := d.baseline()
	c, _, at := askBind(t, d.address, anyone)
	c.Close()
	d.backTo(before)
	if _, err := connectFrom(t, "127.0.0.1", at); err == nil {
		t.Error("the port is still open")
	}
	c, _, _ = askBind(t, d.address, anyone)
	d.signal(syscall.SIGTERM)
	if code, _ := bindReply(t, c); code != 1 {
		t.Errorf("second reply %d", code)
	}
	if code := d.exitCode(); code != 0 {
		t.Errorf("exit %d", code)
	}
	d.find("of the drain", func(l line) bool { return l["msg"] == "connection" && l.text("cause") == "drained" })
}
