package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// passwordStatus is a SOCKS5 greeting with a password; the answer's second byte.
func passwordStatus(t *testing.T, c net.Conn, user, password string) byte {
	t.Helper()
	send(t, c, 5, 1, 2)
	if got := receive(t, c, 2); got[1] != 2 {
		t.Fatalf("method %d", got[1])
	}
	msg := append([]byte{1, byte(len(user))}, user...)
	msg = append(append(msg, byte(len(password))), password...)
	send(t, c, msg...)
	return receive(t, c, 2)[1]
}

// connectTo asks for an address; the reply.
func connectTo(t *testing.T, c net.Conn, at netip.AddrPort) byte {
	t.Helper()
	ip := at.Addr().As4()
	send(t, c, append([]byte{5, 1, 0, 1}, ip[0], ip[1], ip[2], ip[3], byte(at.Port()>>8), byte(at.Port()))...)
	return readReply(t, c)
}

// TestDoorPolicy: a listener of its own for each kind of client, as those who
// come from Dante and 3proxy have it.
func TestDoorPolicy(t *testing.T) {
	target := echoServer(t, "127.0.0.1:0")
	open, staff, shut, far := freePort(t), freePort(t), freePort(t), freePort(t)
	start(t, fmt.Sprintf(`
[auth]
required = false
allow_plain_passwords = true
[[user]]
name = "alice"
password = "a secret"
groups = ["staff"]
[[user]]
name = "bob"
password = "another one"
[[listener]]
name = "open"
address = "127.0.0.1:%s"
[[listener]]
name = "staff"
address = "127.0.0.1:%s"
groups = ["staff"]
[[listener]]
name = "shut"
address = "127.0.0.1:%s"
upstream = "reject"
[[listener]]
name = "far"
address = "127.0.0.1:%s"
allow_from = ["192.0.2.0/24"]
block_private = true
`, open, staff, shut, far))
	at := func(port string) net.Conn { return dialProxy(t, fmt.Sprintf("127.0.0.1:%s", port)) }

	c := at(open)
	send(t, c, 5, 1, 0)
	receive(t, c, 2)
	if code := connectTo(t, c, target); code != 0 {
		t.Errorf("open: reply %d", code)
	}
	c = at(staff)
	send(t, c, 5, 1, 0)
	if got := receive(t, c, 2); got[1] != 0xff {
		t.Errorf("staff: let in without a log-in: method %d", got[1])
	}
	c = at(staff)
	if status := passwordStatus(t, c, "alice", "a secret"); status != 0 {
		t.Errorf("staff: alice: status %d", status)
	} else if code := connectTo(t, c, target); code != 0 {
		t.Errorf("staff: alice: reply %d", code)
	}
	if status := passwordStatus(t, at(staff), "bob", "another one"); status == 0 {
		t.Error("staff: bob may log in")
	}
	c = at(shut)
	send(t, c, 5, 1, 0)
	receive(t, c, 2)
	if code := connectTo(t, c, target); code != 2 {
		t.Errorf("shut: reply %d", code)
	}
	// The reset may come as soon as the connection is made, and so to the dial.
	if raw, err := net.Dial("tcp", "127.0.0.1:"+far); err == nil {
		defer raw.Close()
		_ = raw.SetDeadline(time.Now().Add(patience))
		if _, err := raw.Read(make([]byte, 1)); err == nil {
			t.Error("far: a client from elsewhere is served")
		}
	}
}

// TestSameEgress: what comes in on an address leaves from it.
func TestSameEgress(t *testing.T) {
	sources := make(chan netip.Addr, 1)
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			sources <- c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
			c.Close()
		}
	}()
	port := freePort(t)
	start(t, fmt.Sprintf("[[listener]]\naddress = \"0.0.0.0:%s\"\negress = \"same\"\n", port))
	target := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(l.Addr().(*net.TCPAddr).Port))
	for _, in := range []string{"127.0.0.5", "127.0.0.6"} {
		c := dialProxy(t, fmt.Sprintf("%s:%s", in, port))
		send(t, c, 5, 1, 0)
		receive(t, c, 2)
		if code := connectTo(t, c, target); code != 0 {
			t.Fatalf("reply %d", code)
		}
		if got := <-sources; got.String() != in {
			t.Errorf("came to %s, left from %s", in, got)
		}
	}
}

// TestRulesByListener: rules and forwards tell listeners, sources and groups
// apart.
func TestRulesByListener(t *testing.T) {
	target := echoServer(t, "127.0.0.1:0")
	one, two := freePort(t), freePort(t)
	start(t, fmt.Sprintf(`
[acl]
block_private = false
[[listener]]
name = "one"
address = "127.0.0.1:%s"
[[listener]]
name = "two"
address = "127.0.0.1:%s"
[[acl.rule]]
action = "deny"
listeners = ["one"]
ports = [%d]
[[forward]]
listeners = ["two"]
from = ["127.0.0.9"]
upstream = "reject"
`, one, two, target.Port()))
	for _, tt := range []struct {
		from, port string
		want       byte
	}{{"127.0.0.1", one, 2}, {"127.0.0.1", two, 0}, {"127.0.0.9", two, 2}} {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(tt.from)}}
		c, err := dialer.Dial("tcp4", fmt.Sprintf("127.0.0.1:%s", tt.port))
		if err != nil {
			t.Fatal(err)
		}
		send(t, c, 5, 1, 0)
		receive(t, c, 2)
		if code := connectTo(t, c, target); code != tt.want {
			t.Errorf("%+v: reply %d", tt, code)
		}
		c.Close()
	}
}

// TestDrainDelay: a load balancer needs seconds to notice that the daemon is
// not ready any more, and met a closed door in between.
func TestDrainDelay(t *testing.T) {
	target := echoServer(t, "127.0.0.1:0")
	d := start(t, "[drain]\ndelay = \"3s\"\n")
	d.signal(syscall.SIGTERM)
	d.find("that says so", func(l line) bool { return l.text("msg") == "not ready any more, and still accepting" })
	c := dialProxy(t, d.address)
	send(t, c, 5, 1, 0)
	receive(t, c, 2)
	if code := connectTo(t, c, target); code != 0 {
		t.Errorf("reply %d while the door should be open", code)
	}
	c.Close()
	d.find("of the end", func(l line) bool { return l.text("msg") == "stopped" })
}
