package e2e

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A client on a unix socket is known by its user id; another user of this
// machine has to log in, and none of them is kept out by limits of sources. The
// file survives a reload that changes the listener, and goes with the daemon.
func TestUnixSocketListener(t *testing.T) {
	dir, err := os.MkdirTemp("", "unix-") //nolint:usetesting // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("here")) }))
	defer site.Close()
	socket := filepath.Join(dir, "x.sock")
	settings := func(mode, name string) string {
		return "[limits]\nmax_connections_per_ip = 1\n[[listener]]\nname = \"" + name + "\"\naddress = \"unix:" + socket + "\"\nmode = \"" + mode + "\"\nusers_by_uid = { 0 = \"root\" }\n" +
			"[acl]\nblock_private = false\n[[acl.rule]]\naction = \"allow\"\nusers = [\"root\"]\n[[acl.rule]]\naction = \"deny\"\n"
	}
	config := writeFile(t, "c.toml", settings("0666", "one"))
	d := startProgram(t, "--config", config, "--log-format", "json")
	curl := program(t, "curl", "curl")
	fetch := func(before ...string) string {
		args := append(before, curl, "-s", "-m", "20", "--proxy", "socks5h://localhost"+socket, site.URL)
		out, _ := exec.Command(args[0], args[1:]...).Output()
		return string(out)
	}
	if got := fetch(); got != "here" {
		t.Errorf("root: %q", got)
	}
	r := d.record(strings.TrimPrefix(site.URL, "http://"))
	if r.text("client") != "unix:uid=0" || r.text("user") != "root" || r.text("auth") != "unix" {
		t.Errorf("record %v", r)
	}
	if got := fetch("setpriv", "--reuid=65533", "--regid=65533", "--clear-groups"); got != "" {
		t.Errorf("somebody else: %q", got)
	}
	rewrite(t, config, settings("0600", "two"))
	d.signal(syscall.SIGHUP)
	d.waitMessage("listener closed")
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("after a reload: %v, %v", info, err)
	}
	if got := fetch(); got != "here" {
		t.Errorf("after a reload: %q", got)
	}
	d.signal(syscall.SIGTERM)
	if code := d.exitCode(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("the file is still there: %v", err)
	}
}

// A unix socket without a file, over which a client asks for what opens ports: it
// is on this host, so that these are on loopback, and datagrams come from there.
func TestCommandsOverUnixSocket(t *testing.T) {
	echo, udp := echoServer(t, "127.0.0.1:0"), udpEcho(t, "127.0.0.1:0")
	name := "@cleversocks-e2e-" + freePort(t)
	d := start(t, "[[listener]]\naddress = \"127.0.0.1:0\"\n[[listener]]\nname = \"abstract\"\naddress = \"unix:"+name+"\"\n")
	ask := func(command byte, to netip.AddrPort) (net.Conn, byte, netip.AddrPort) {
		c, err := net.Dial("unix", name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(patience))
		send(t, c, 5, 1, 0)
		receive(t, c, 2)
		ip := to.Addr().As4()
		send(t, c, 5, command, 0, 1, ip[0], ip[1], ip[2], ip[3], byte(to.Port()>>8), byte(to.Port()))
		code, at := bindReply(t, c)
		return c, code, at
	}
	c, code, _ := ask(1, echo)
	if code != succeeded {
		t.Fatalf("connect: reply %d", code)
	}
	echoes(t, c, "over a socket without a file")
	_ = c.Close()
	r := d.record(echo.String())
	if r.text("client") != "unix:uid=0" || r.text("listener") != "abstract" {
		t.Errorf("record %v", r)
	}

	_, code, relay := ask(3, netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
	if code != succeeded || relay.Addr().String() != "127.0.0.1" {
		t.Fatalf("associate: reply %d, %s", code, relay)
	}
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	(&association{t: t, socket: socket, relay: relay}).echoes("127.0.0.1", udp, "over a unix socket")

	c, code, at := ask(2, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), 0))
	if code != succeeded || at.Addr().String() != "127.0.0.1" {
		t.Fatalf("bind: reply %d, %s", code, at)
	}
	peer, err := connectFrom(t, "127.0.0.1", at)
	if err != nil {
		t.Fatal(err)
	}
	if code, from := bindReply(t, c); code != succeeded || from.String() != peer.LocalAddr().String() {
		t.Errorf("bind: second reply %d, %s", code, from)
	}
}
