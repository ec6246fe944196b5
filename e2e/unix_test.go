package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
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

// What a port's clients have, a unix socket's have too: TLS and HTTP/2 over it, a
// ban for those who guess passwords, which is their user id's, and a session that
// ends when a reload gives their id to somebody else. A file that somebody has
// removed, as what tidies up /tmp does, is made anew.
func TestUnixSocketDoor(t *testing.T) {
	echo, ca := echoServer(t, "127.0.0.1:0"), newAuthority(t)
	ca.issue("proxy", "localhost")
	dir := t.TempDir()
	known, plain, secure := filepath.Join(dir, "known.sock"), filepath.Join(dir, "plain.sock"), filepath.Join(dir, "tls.sock")
	token := writeFile(t, "token", "a token of the tests")
	if err := os.Chmod(token, 0o600); err != nil {
		t.Fatal(err)
	}
	settings := func(uid, exempt string) string {
		return "[reload]\nrevoke = true\n[auth]\nallow_plain_passwords = true\n[limits]\nexempt = [" + exempt + "]\nauth_failures = { max = 3 }\n[[user]]\nname = \"alice\"\npassword = \"right one\"\n" +
			"[[listener]]\nname = \"known\"\naddress = \"unix:" + known + "\"\nusers_by_uid = { " + uid + " = \"alice\" }\n" +
			"[[listener]]\nname = \"plain\"\naddress = \"unix:" + plain + "\"\n" +
			"[[listener]]\nname = \"tls\"\naddress = \"unix:" + secure + "\"\n[listener.tls]\ncert = \"" + ca.path("proxy.crt") + "\"\nkey = \"" + ca.path("proxy.key") + "\"\n" +
			"[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"" + token + "\"\n"
	}
	config := writeFile(t, "c.toml", settings("0", ""))
	d := startProgram(t, "--config", config, "--log-format", "json")
	dial := func(path string) net.Conn {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(patience))
		return c
	}
	session := dial(known)
	send(t, session, 5, 1, 0)
	receive(t, session, 2)
	if code := request(t, session, 1, echo); code != succeeded {
		t.Fatalf("reply %d", code)
	}
	echoes(t, session, "known by its id")

	over := tls.Client(dial(secure), &tls.Config{InsecureSkipVerify: true})
	if status := passwordStatus(t, over, "alice", "right one"); status != 0 {
		t.Errorf("over TLS: status %d", status)
	}
	if code := request(t, over, 1, echo); code != succeeded {
		t.Errorf("over TLS: reply %d", code)
	}
	echoes(t, over, "by TLS over a unix socket")

	for i := range 3 {
		if status := passwordStatus(t, dial(plain), "alice", fmt.Sprint("guess ", i)); status == 0 {
			t.Error("a guess was right")
		}
	}
	if status := d.waitMessage("source banned").text("source"); status != "unix:uid=0" {
		t.Errorf("banned is %s", status)
	}
	banned := dial(plain)
	if n, err := banned.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Error("served while banned")
	}
	d.find("of a refusal", func(l line) bool {
		return l.text("msg") == "connection refused" && l.text("client") == "unix:uid=0" && l.text("reason") == "banned"
	})
	if status, body := d.api("GET", "/api/v1/bans", "a token of the tests"); status != 200 || !strings.Contains(body, `"unix:uid=0"`) {
		t.Errorf("bans: %d %s", status, body)
	}
	if status, body := d.api("DELETE", "/api/v1/bans/unix:uid=0", "a token of the tests"); status != 200 && status != 204 {
		t.Errorf("lift: %d %s", status, body)
	}
	if status := passwordStatus(t, dial(plain), "alice", "right one"); status != 0 {
		t.Errorf("after the ban: status %d", status)
	}

	// The file goes, and comes back by itself.
	if err := os.Remove(plain); err != nil {
		t.Fatal(err)
	}
	d.waitMessage("somebody has removed the file of a unix socket")
	if status := passwordStatus(t, dial(plain), "alice", "right one"); status != 0 {
		t.Errorf("at the new file: status %d", status)
	}

	// Another id is alice now, and nobody is banned who is exempt.
	rewrite(t, config, settings("4242", "\"unix:uid=0\""))
	d.signal(syscall.SIGHUP)
	d.waitMessage("session revoked")
	if rest, err := io.ReadAll(session); len(rest) > 0 {
		t.Errorf("the session of another's id goes on: %q, %v", rest, err)
	}
	echoes(t, over, "logged in by a password")
	for i := range 4 {
		passwordStatus(t, dial(plain), "alice", fmt.Sprint("another guess ", i))
	}
	if status := passwordStatus(t, dial(plain), "alice", "right one"); status != 0 {
		t.Errorf("exempt: status %d", status)
	}
}
