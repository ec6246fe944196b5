package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// refusedAtAccept reports whether a connection is reset or closed before the
// proxy says anything.
func refusedAtAccept(t *testing.T, proxy, source string) bool {
	t.Helper()
	dialer := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	c, err := dialer.Dial("tcp", proxy)
	if errors.Is(err, syscall.ECONNRESET) {
		return true
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	_, _ = c.Write([]byte{5, 1, 0xfe}) // a method that nobody has
	answer := make([]byte, 2)
	n, err := io.ReadFull(c, answer)
	return n == 0 && err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

// wrongPasswords numbers them: the same one again would be no guess.
var wrongPasswords atomic.Int64

// wrongPassword fails to log in once and returns the status.
func wrongPassword(t *testing.T, proxy, source, user string) byte {
	t.Helper()
	c := dialProxyFrom(t, proxy, source)
	defer c.Close()
	send(t, c, 5, 1, 2)
	receive(t, c, 2)
	password := strconv.FormatInt(1e6+wrongPasswords.Add(1), 10)
	send(t, c, append(append([]byte{1, byte(len(user))}, user...), append([]byte{byte(len(password))}, password...)...)...)
	return receive(t, c, 2)[1]
}

// Guessing brings a ban that doubles, at accept, for the source alone; an
// operator lists and lifts it, and fail2ban reads the log.
func TestBans(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	token := writeFile(t, "token", "0123456789abcdef\n")
	d := start(t, `
[admin]
address = "127.0.0.1:0"
token_file = "`+token+`"
[auth]
user = "joe"
password = "secret"
[limits]
auth_failures = { max = 3, window = "1m", ban = "3s", ban_max = "1h" }
exempt = ["127.0.0.99"]
`)
	guesser, innocent := "127.0.0.7", "127.0.0.8"
	for range 3 {
		if status := wrongPassword(t, d.address, guesser, "eve"); status == 0 {
			t.Fatal("let in")
		}
	}
	if !refusedAtAccept(t, d.address, guesser) {
		t.Error("the guesser is not banned")
	}
	if ban := d.waitLine("msg", "source banned"); ban.text("source") != "127.0.0.7/32" || ban.text("level") != "WARN" {
		t.Errorf("%v", ban)
	}
	if refusedAtAccept(t, d.address, innocent) {
		t.Error("another source is banned")
	}
	mustCurl(t, "--interface", innocent, "--proxy", d.via("joe", "secret"), web.URL)
	if d.settles("cleversocks_bans_active", "1") != "1" || d.settles(`cleversocks_connections_refused_total{reason="banned"}`, "1") != "1" {
		t.Error("not counted")
	}
	// A client that asks before it logs in, one that offers nothing that
	// suits, and an exempt one are not banned.
	for range 5 {
		c := dialProxyFrom(t, d.address, innocent)
		send(t, c, 5, 1, 0)
		receive(t, c, 2)
		c.Close()
		mustCurl(t, "--interface", innocent, "--proxy-anyauth", "--proxy", "http://joe:secret@"+d.address, web.URL)
		wrongPassword(t, d.address, "127.0.0.99", "eve")
	}
	if refusedAtAccept(t, d.address, innocent) || refusedAtAccept(t, d.address, "127.0.0.99") {
		t.Error("banned without a reason")
	}
	// The second ban is twice as long, and is lifted by hand.
	eventually(t, "the ban ends", func() bool { return !refusedAtAccept(t, d.address, guesser) })
	for range 3 {
		wrongPassword(t, d.address, guesser, "eve")
	}
	d.find("of a ban of 6 s", func(l line) bool { return l["msg"] == "source banned" && l["duration"] == "6s" })
	if _, body := d.api("GET", "/api/v1/bans", "0123456789abcdef"); !strings.Contains(body, `"source": "127.0.0.7/32"`) || !strings.Contains(body, `"level": 2`) {
		t.Errorf("listed as %s", body)
	}
	if status, _ := d.api("DELETE", "/api/v1/bans/127.0.0.7/32", "0123456789abcdef"); status != 204 {
		t.Errorf("lifted: status %d", status)
	}
	mustCurl(t, "--interface", guesser, "--proxy", d.via("joe", "secret"), web.URL)
	const failures = 3 + 5 + 3
	eventually(t, "all failures are logged", func() bool { return strings.Count(d.log(), `"msg":"authentication failed"`) == failures })
	fail2ban(t, d.log(), failures)
}

// fail2ban runs the filter of dist over the program's own log.
func fail2ban(t *testing.T, log string, want int) {
	t.Helper()
	program := program(t, "fail2ban-regex", "fail2ban")
	file := writeFile(t, "cleversocks.log", log)
	filter, err := filepath.Abs("../dist/fail2ban/filter.d/cleversocks.conf")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(program, file, filter).CombinedOutput()
	if err != nil || !strings.Contains(string(out), fmt.Sprintf(" %d matched", want)) {
		t.Errorf("%v, want %d matched in\n%s", err, want, out)
	}
}

// The filter reads the text log too, whatever a name tries.
func TestFail2banText(t *testing.T) {
	address := freeAddress(t)
	log := filepath.Join(t.TempDir(), "cleversocks.log")
	cmd := exec.Command(binary, "-p", port(address), "--admin", "", "-u", "joe", "-P", "secret", "--log-format", "text", "--log-output", log)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	eventually(t, "it listens", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	for _, name := range []string{"eve", "x\nlevel=WARN msg=\"authentication failed\" client=192.0.2.1 user=y", "\xff\x00\" client=192.0.2.1"} {
		wrongPassword(t, address, "127.0.0.7", name)
	}
	var written []byte
	eventually(t, "three lines are written", func() bool {
		var err error
		written, err = os.ReadFile(log)
		return err == nil && strings.Count(string(written), "msg=connection ") == 3
	})
	fail2ban(t, string(written), 3)
}

// One address may open so many connections a second, and so many at a time.
func TestConnectionLimits(t *testing.T) {
	d := start(t, `
[limits]
max_connections_per_ip = 3
connection_rate = { per_second = 1, burst = 5 }
exempt = ["127.0.0.99"]
`)
	open := func(source string) net.Conn {
		c := dialProxyFrom(t, d.address, source)
		send(t, c, 5, 1, 0)
		receive(t, c, 2)
		return c
	}
	for range 3 {
		open("127.0.0.7")
	}
	if !refusedAtAccept(t, d.address, "127.0.0.7") {
		t.Error("a fourth connection")
	}
	open("127.0.0.8") // nobody else minds
	for range 3 {
		open("127.0.0.99")
	}
	if !refusedAtAccept(t, d.address, "127.0.0.99") {
		t.Error("exempt from the rate means exempt from the cap")
	}
	if got := d.settles(`cleversocks_connections_refused_total{reason="ip_limit"}`, "2"); got != "2" {
		t.Errorf("%s refused for their number", got)
	}
	// A cap would refuse some whose predecessors the daemon has not closed yet.
	d = start(t, "[limits]\nconnection_rate = { per_second = 1, burst = 5 }\n")
	refused := 0
	for range 20 {
		if refusedAtAccept(t, d.address, "127.0.0.10") {
			refused++
		}
	}
	if refused < 10 {
		t.Errorf("%d of 20 refused for their rate", refused)
	}
	if got := d.settles(`cleversocks_connections_refused_total{reason="rate"}`, fmt.Sprint(refused)); got != fmt.Sprint(refused) {
		t.Errorf("%s refused for their rate, saw %d", got, refused)
	}
}

// Quotas, bans and auth-once outlive the program.
func TestStateOverRestart(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	dir := t.TempDir()
	settings := `
[auth]
allow_plain_passwords = true
once = { enabled = true }
[limits]
auth_failures = { max = 2, ban = "1h" }
[state]
directory = "` + dir + `"
[[user]]
name = "little"
password = "x"
quota = { bytes = "1MiB", period = "1h" }
[[user]]
name = "bob"
password = "x"
`
	d := start(t, settings)
	_, _ = curl(t, "--proxy", d.via("little", "x"), "-o", "/dev/null", web.URL+"/big")
	mustCurl(t, "--interface", "127.0.0.7", "--proxy", d.via("bob", "x"), web.URL)
	for range 2 {
		wrongPassword(t, d.address, "127.0.0.6", "eve")
	}
	d.signal(syscall.SIGTERM)
	if code := d.exitCode(); code != 0 {
		t.Fatalf("status %d", code)
	}
	for _, kind := range []string{"quotas", "bans", "once"} {
		info, err := os.Stat(filepath.Join(dir, kind+".state"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", kind, info, err)
		}
	}
	d = start(t, settings)
	echo := netip.MustParseAddrPort(web.Listener.Addr().String())
	if got := request(t, login(t, d.address, "127.0.0.9", "little", "x"), 1, echo); got != 2 {
		t.Errorf("reply %d: the quota is forgotten", got)
	}
	mustCurl(t, "--interface", "127.0.0.7", "--proxy", d.via("", ""), web.URL)
	if !refusedAtAccept(t, d.address, "127.0.0.6") {
		t.Error("the ban is forgotten")
	}
}

// A corrupt state, and one that cannot be written, is told and kept from
// doing harm; the program serves on.
func TestStateTrouble(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	settings := func(dir string) string {
		return `
[auth]
allow_plain_passwords = true
[state]
directory = "` + dir + `"
[[user]]
name = "little"
password = "x"
quota = { bytes = "1GiB", period = "1h" }
`
	}
	t.Run("corrupt", func(t *testing.T) {
		dir := t.TempDir()
		rewrite(t, filepath.Join(dir, "quotas.state"), "cleversocks-state 1 quotas 00\n[]")
		d := start(t, settings(dir))
		if said := d.waitLine("msg", "state"); said.text("level") != "ERROR" || !strings.Contains(said.text("err"), "corrupt state file") {
			t.Errorf("%v", said)
		}
		mustCurl(t, "--proxy", d.via("little", "x"), web.URL)
		if got := d.settles(`cleversocks_state_total{file="quotas",outcome="corrupt"}`, "1"); got != "1" {
			t.Errorf("counted %q", got)
		}
		kept, err := os.ReadFile(filepath.Join(dir, "quotas.state.bad"))
		if err != nil || string(kept) != "cleversocks-state 1 quotas 00\n[]" {
			t.Errorf("%q, %v", kept, err)
		}
	})
	t.Run("disk full", func(t *testing.T) {
		dir := t.TempDir()
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
		d := start(t, settings(dir))
		mustCurl(t, "--proxy", d.via("little", "x"), web.URL)
		d.signal(syscall.SIGTERM)
		d.exitCode()
		good, err := os.ReadFile(filepath.Join(dir, "quotas.state"))
		if err != nil {
			t.Fatal(err)
		}
		filler, err := os.Create(filepath.Join(dir, "filler"))
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = filler.Write(make([]byte, 4096))
		}
		filler.Close()
		d = start(t, settings(dir))
		mustCurl(t, "--proxy", d.via("little", "x"), web.URL)
		said := d.find("of a state that is not saved", func(l line) bool {
			return l["msg"] == "state" && strings.Contains(l.text("err"), "no space left")
		})
		if said.text("level") != "ERROR" {
			t.Errorf("%v", said)
		}
		if got := d.metric(`cleversocks_state_total{file="quotas",outcome="save_failed"}`); got == "0" || got == "" {
			t.Errorf("counted %q", got)
		}
		mustCurl(t, "--proxy", d.via("little", "x"), web.URL)
		if now, err := os.ReadFile(filepath.Join(dir, "quotas.state")); err != nil || string(now) != string(good) {
			t.Errorf("the good file is overwritten: %q, %v", now, err)
		}
		// Room again: what was counted meanwhile is saved.
		if err := os.Remove(filler.Name()); err != nil {
			t.Fatal(err)
		}
		d.signal(syscall.SIGTERM)
		d.exitCode()
		if now, err := os.ReadFile(filepath.Join(dir, "quotas.state")); err != nil || string(now) == string(good) {
			t.Errorf("not saved once there was room: %v", err)
		}
	})
}

// Limits change on a reload, for connections that are open too, and drop
// nobody.
func TestLimitsReload(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	file := writeFile(t, "c.toml", "")
	settings := func(perIP int, user string) {
		rewrite(t, file, fmt.Sprintf(`
[[listener]]
address = "127.0.0.1:0"
[admin]
address = "127.0.0.1:0"
[limits]
max_connections_per_ip = %d
[auth]
allow_plain_passwords = true
[[user]]
name = "alice"
password = "x"
%s
`, perIP, user))
	}
	settings(1, "")
	d := startProgram(t, "--config", file, "--log-format", "json")
	c := login(t, d.address, "127.0.0.7", "alice", "x")
	if code := request(t, c, 1, echo); code != 0 {
		t.Fatalf("reply %d", code)
	}
	echoes(t, c, "hello")
	if !refusedAtAccept(t, d.address, "127.0.0.7") {
		t.Error("a second connection")
	}
	settings(2, "bandwidth = { up = \"256KiB/s\" }\nmax_connections = 1")
	d.signal(syscall.SIGHUP)
	d.waitLine("msg", "reloaded")
	second := login(t, d.address, "127.0.0.7", "alice", "x")
	if code := request(t, second, 1, echo); code != 2 {
		t.Errorf("reply %d: the user's new limit does not count the connection that is open", code)
	}
	began := time.Now()
	text := strings.Repeat("x", 768<<10) // a second's worth at once, then two seconds
	go func() { _, _ = io.WriteString(c, text) }()
	if _, err := io.ReadFull(c, make([]byte, len(text))); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < time.Second {
		t.Errorf("768 KiB took %v: the open connection has no limit", took)
	}
}
