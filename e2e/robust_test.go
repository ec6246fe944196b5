package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestSilentClientsDelayNobody(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	d := start(t, "")
	before := d.baseline()
	silent := make([]net.Conn, 300)
	for i := range silent {
		silent[i] = dialProxy(t, d.address)
		switch i % 3 {
		case 1:
			send(t, silent[i], 5)
		case 2:
			send(t, silent[i], 5, 1, 0)
		}
	}
	eventually(t, "all silent clients accepted", func() bool {
		return d.metric(`cleversocks_connections_accepted_total{listener="`+d.address+`"}`) == "300"
	})
	for range 20 {
		c, reply := connect(t, d.address, echo)
		if reply != succeeded {
			t.Fatalf("reply %d", reply)
		}
		echoes(t, c, "not delayed")
		c.Close()
	}
	for _, c := range silent {
		c.Close()
	}
	d.backTo(before)
}

// A byte every now and then does not keep a handshake alive: the time-out is
// for all of it.
func TestHandshakeTimeoutIsForAllOfIt(t *testing.T) {
	d := start(t, "[limits]\nhandshake_timeout = \"1s\"\n")
	c := dialProxy(t, d.address)
	send(t, c, 5, 255)
	trickle := time.NewTicker(100 * time.Millisecond)
	defer trickle.Stop()
	sent := 0
	for range trickle.C {
		if _, err := c.Write([]byte{0}); err != nil {
			break
		}
		if sent++; sent == 200 {
			t.Fatal("the handshake goes on for ever")
		}
	}
	if got := d.find("of the time-out", func(l line) bool { return l["msg"] == "connection" }); got.text("cause") != "handshake_timeout" {
		t.Errorf("cause %s", got.text("cause"))
	}
}

// Every malformed handshake ends in the right answer and a close.
func TestMalformedHandshakes(t *testing.T) {
	d := start(t, "")
	before := d.baseline()
	long := append([]byte{5, 1, 0, 5, 1, 0, 3, 255}, bytes.Repeat([]byte("a"), 255)...)
	for name, tt := range map[string]struct {
		send []byte
		want []byte
	}{
		"no acceptable method": {[]byte{5, 1, 1}, []byte{5, 0xff}},
		"no methods":           {[]byte{5, 0}, []byte{5, 0xff}},
		"unknown command":      {[]byte{5, 1, 0, 5, 9, 0, 1, 1, 2, 3, 4, 0, 80}, []byte{5, 0, 5, 7, 0, 1, 0, 0, 0, 0, 0, 0}},
		"unknown address type": {[]byte{5, 1, 0, 5, 1, 0, 2, 1, 2, 3, 4, 0, 80}, []byte{5, 0, 5, 8, 0, 1, 0, 0, 0, 0, 0, 0}},
		"version in request":   {[]byte{5, 1, 0, 6, 1, 0, 1, 1, 2, 3, 4, 0, 80}, []byte{5, 0, 5, 1, 0, 1, 0, 0, 0, 0, 0, 0}},
		"empty name":           {[]byte{5, 1, 0, 5, 1, 0, 3, 0, 0, 80}, []byte{5, 0, 5, 1, 0, 1, 0, 0, 0, 0, 0, 0}},
		"control characters":   {[]byte{5, 1, 0, 5, 1, 0, 3, 3, 'a', 0, 'b', 0, 80}, []byte{5, 0, 5, 1, 0, 1, 0, 0, 0, 0, 0, 0}},
		"name too long":        {append(long, 0, 80), []byte{5, 0, 5, 1, 0, 1, 0, 0, 0, 0, 0, 0}},
		"port 0":               {[]byte{5, 1, 0, 5, 1, 0, 1, 1, 2, 3, 4, 0, 0}, []byte{5, 0, 5, 1, 0, 1, 0, 0, 0, 0, 0, 0}},
		"garbage":              {[]byte{0xde, 0xad, 0xbe, 0xef}, nil},
		"TLS":                  {[]byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := dialProxy(t, d.address)
			send(t, c, tt.send...)
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, tt.want) {
				t.Errorf("% x, %v; want % x and the end", got, err, tt.want)
			}
			c.Close()
		})
	}
	d.backTo(before)
}

func TestConnectionsPastTheLimitAreReset(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	d := start(t, "", "-m", "3")
	for range 3 {
		if _, reply := connect(t, d.address, echo); reply != succeeded {
			t.Fatalf("reply %d", reply)
		}
	}
	c, err := net.Dial("tcp", d.address)
	if err == nil { // it may be reset already
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the fourth: %v, want a reset", err)
	}
	if got := d.settles(`cleversocks_connections_refused_total{reason="limit"}`, "1"); got != "1" {
		t.Errorf("counted %s", got)
	}
	// A full proxy turned everybody away without a line in the log.
	if l := d.waitMessage("limit reached"); l.text("limit") != "limits.max_connections" || l.text("figure") != "3" || l.text("level") != "WARN" {
		t.Errorf("logged %v", l)
	}
}

// Out of descriptors, the daemon goes on: it resets who comes, says so, and
// serves again when there are some.
func TestOutOfDescriptors(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	config := writeFile(t, "c.toml", "[limits]\nmax_connections = 1000\n[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n")
	d := startCommand(t, exec.Command("sh", "-c", `ulimit -n 60; exec "$0" --config "$1" --log-format json`, binary, config))
	var open []net.Conn
	eventually(t, "the descriptors run out", func() bool {
		if c, err := net.Dial("tcp", d.address); err == nil { // it may be reset already
			open = append(open, c)
		}
		return strings.Contains(d.log(), "cannot accept")
	})
	for _, c := range open {
		c.Close()
	}
	eventually(t, "it serves again", func() bool {
		c, err := net.Dial("tcp", d.address)
		if err != nil {
			return false
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write([]byte{5, 1, 0}); err != nil {
			return false
		}
		_, err = io.ReadFull(c, make([]byte, 2))
		return err == nil
	})
	if c, reply := connect(t, d.address, echo); reply != succeeded {
		t.Errorf("reply %d", reply)
	} else {
		echoes(t, c, "again")
	}
	if n, _ := strconv.Atoi(d.metric(`cleversocks_connections_refused_total{reason="descriptors"}`)); n == 0 {
		t.Error("not counted")
	}
	d.find("that records one", func(l line) bool { return l["msg"] == "connection refused" && l["reason"] == "descriptors" })
}

// A client that leaves while its target does not answer ends the dial.
func TestClientLeavesDuringTheDial(t *testing.T) {
	to := blackHole(t)
	d := start(t, "[limits]\nconnect_timeout = \"60s\"\n")
	before := d.baseline()
	reset := func(c *net.TCPConn) { _ = c.SetLinger(0); c.Close() }
	for name, tt := range map[string]struct {
		ahead string
		later string
		leave func(*net.TCPConn)
	}{
		"close":                    {leave: func(c *net.TCPConn) { c.Close() }},
		"reset":                    {leave: reset},
		"reset behind early bytes": {ahead: "early", leave: reset},
		"reset behind later bytes": {later: "later", leave: reset},
	} {
		t.Run(name, func(t *testing.T) {
			c := dialProxy(t, d.address)
			send(t, c, 5, 1, 0)
			receive(t, c, 2)
			a := to.Addr().As4()
			send(t, c, append([]byte{5, 1, 0, 1, a[0], a[1], a[2], a[3], byte(to.Port() >> 8), byte(to.Port())}, tt.ahead...)...)
			eventually(t, "the dial began", func() bool { return d.descriptors() > before.descriptors+1 })
			if tt.later != "" {
				send(t, c, []byte(tt.later)...)
			}
			tt.leave(c)
			d.backTo(before)
		})
	}
	if got := d.record(to.String()); got.text("cause") != "client_closed" {
		t.Errorf("cause %s", got.text("cause"))
	}
}

// blackHole is an address whose packets vanish: a listener whose backlog is
// full answers no more handshakes.
func blackHole(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(name.(*syscall.SockaddrInet4).Port))
	for range 4 { // fills the backlog; the last ones hang
		c, err := net.DialTimeout("tcp", at.String(), 200*time.Millisecond)
		if err == nil {
			t.Cleanup(func() { c.Close() })
		}
	}
	return at
}

func TestResetsPassOn(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := start(t, "")
	before := d.baseline()
	to := l.Addr().(*net.TCPAddr).AddrPort()
	for _, from := range []string{"client", "server"} {
		t.Run(from, func(t *testing.T) {
			c, reply := connect(t, d.address, to)
			if reply != succeeded {
				t.Fatalf("reply %d", reply)
			}
			peer, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			s := peer.(*net.TCPConn)
			defer s.Close()
			_ = s.SetDeadline(time.Now().Add(patience))
			ends := map[string][2]*net.TCPConn{"client": {c, s}, "server": {s, c}}[from]
			send(t, ends[0], []byte("last words")...)
			if got := receive(t, ends[1], len("last words")); string(got) != "last words" {
				t.Fatalf("%q", got)
			}
			_ = ends[0].SetLinger(0)
			ends[0].Close()
			if _, err := ends[1].Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the other side sees %v, want a reset", err)
			}
			d.find("of the reset", func(l line) bool { return l.text("cause") == from+"_reset" })
		})
	}
	d.backTo(before)
}

func TestHalfClose(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // answers only after the end of the question
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		question, _ := io.ReadAll(c)
		fmt.Fprintf(c, "%d bytes", len(question))
	}()
	d := start(t, "")
	c, _ := connect(t, d.address, l.Addr().(*net.TCPAddr).AddrPort())
	send(t, c, bytes.Repeat([]byte("q"), 100_000)...)
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil || string(answer) != "100000 bytes" {
		t.Errorf("%q, %v", answer, err)
	}
}

// The first payload may stand behind the handshake, in one segment.
func TestPipelinedPayload(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	d := start(t, "")
	c := dialProxy(t, d.address)
	p := echo.Port()
	send(t, c, append([]byte{5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1, byte(p >> 8), byte(p)}, "early"...)...)
	receive(t, c, 2)
	if got := readReply(t, c); got != succeeded {
		t.Fatalf("reply %d", got)
	}
	if got := receive(t, c, 5); string(got) != "early" {
		t.Errorf("%q", got)
	}
}

func TestIdleTimeout(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	d := start(t, "[limits]\nidle_timeout = \"1s\"\n")
	c, _ := connect(t, d.address, echo)
	echoes(t, c, "busy")
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a byte out of nowhere")
	}
	if got := d.record(echo.String()); got.text("cause") != "idle" {
		t.Errorf("cause %s", got.text("cause"))
	}
}

// TestIdleAdminConnectionsDoNotStopTheProxy: 1,100 idle connections to the
// admin endpoint took every descriptor, and the proxy accepted nobody. The
// endpoint has a bound of its own, and still answers probes.
func TestIdleAdminConnectionsDoNotStopTheProxy(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	d := startCommand(t, exec.Command("sh", "-c", "ulimit -n 1024; exec "+binary+
		" --config "+writeFile(t, "c.toml", "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n")+" --log-format json"))
	for range 1100 {
		c, err := net.Dial("tcp", d.admin)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	if status, body := d.get("/readyz"); status != 200 {
		t.Errorf("%d %q", status, body)
	}
	c, reply := connect(t, d.address, echo)
	if reply != succeeded {
		t.Fatalf("reply %d", reply)
	}
	echoes(t, c, "not stopped")
}
