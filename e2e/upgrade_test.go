package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// lineage is a daemon and those that take over from it. All of them write to
// the first one's log.
type lineage struct {
	*daemon

	pid  int // of the one that serves
	done int // upgrades
}

// lineageOf follows a daemon over its upgrades, and ends the last one with the
// test.
func lineageOf(d *daemon) *lineage {
	l := &lineage{daemon: d, pid: d.Cmd.Process.Pid}
	d.t.Cleanup(func() { _ = syscall.Kill(l.pid, syscall.SIGTERM) })
	return l
}

// all are the lines with this message.
func (l *lineage) all(msg string) []line {
	var found []line
	for _, one := range l.Lines() {
		if one["msg"] == msg {
			found = append(found, line(one))
		}
	}
	return found
}

// await waits until there are n lines with this message, and gives the last.
func (l *lineage) await(msg string, n int) line {
	l.t.Helper()
	var last line
	eventually(l.t, fmt.Sprintf("%d times %q in\n%s", n, msg, tail(l.log())), func() bool {
		found := l.all(msg)
		if len(found) >= n {
			last = found[n-1]
		}
		return last != nil
	})
	return last
}

func tail(text string) string { return text[max(len(text)-3000, 0):] }

func (l *lineage) tell(s syscall.Signal) {
	l.t.Helper()
	if err := syscall.Kill(l.pid, s); err != nil {
		l.t.Fatal(err)
	}
}

const upgraded = "upgraded: the successor serves, and this process drains"

// upgrade asks by a signal and waits until the successor serves.
func (l *lineage) upgrade() {
	l.t.Helper()
	l.tell(syscall.SIGUSR2)
	l.succeeded()
}

func (l *lineage) succeeded() {
	l.t.Helper()
	l.done++
	pid, err := strconv.Atoi(l.await(upgraded, l.done).text("pid"))
	if err != nil {
		l.t.Fatal(err)
	}
	l.pid = pid
}

// runs reports whether a process is there, and is no zombie.
func runs(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// load is a steady load of short connections, each of which must succeed.
type load struct {
	made, failed atomic.Int64
	slowest      atomic.Int64 // nanoseconds
	first        atomic.Pointer[string]
	stop         chan struct{}
	running      sync.WaitGroup
}

// startLoad begins a connection every interval, whatever became of the others.
func startLoad(interval time.Duration, kinds ...func() error) *load {
	l := &load{stop: make(chan struct{})}
	one := func(kind func() error) {
		l.made.Add(1)
		begun := time.Now()
		err := kind()
		for took := int64(time.Since(begun)); ; {
			if most := l.slowest.Load(); took <= most || l.slowest.CompareAndSwap(most, took) {
				break
			}
		}
		if err != nil {
			text := err.Error()
			l.first.CompareAndSwap(nil, &text)
			l.failed.Add(1)
		}
	}
	l.running.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		begun, n := time.Now(), 0
		for {
			select {
			case <-tick.C: // some are left out on a busy machine
			case <-l.stop:
				return
			}
			for ; n < int(time.Since(begun)/interval); n++ {
				l.running.Go(func() { one(kinds[n%len(kinds)]) })
			}
		}
	})
	return l
}

func (l *load) end(t *testing.T) {
	t.Helper()
	close(l.stop)
	l.running.Wait()
	if n := l.failed.Load(); n > 0 {
		t.Errorf("%d of %d connections were lost, the first: %s", n, l.made.Load(), *l.first.Load())
	}
}

// through is one connection through the proxy to an echo server: greeting and
// request, in the words of a protocol, an answer that begins as it must, and an
// echo.
func through(network, proxy string, steps ...string) func() error {
	return func() error {
		c, err := net.DialTimeout(network, proxy, patience)
		if err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		r := bufio.NewReader(c)
		for i := 0; i+1 < len(steps); i += 2 {
			if _, err := io.WriteString(c, steps[i]); err != nil {
				return fmt.Errorf("%q: %w", steps[i], err)
			}
			want := steps[i+1]
			got := make([]byte, len(want))
			if _, err := io.ReadFull(r, got); err != nil {
				return fmt.Errorf("answer to %q: %w", steps[i], err)
			}
			// The rest of an answer is addresses and headers.
			if !bytes.HasPrefix(got, []byte(want[:2])) {
				return fmt.Errorf("%q is answered by %q", steps[i], got)
			}
		}
		return nil
	}
}

func socksSteps(to netip.AddrPort) []string {
	ip := to.Addr().As4()
	return []string{"\x05\x01\x00", "\x05\x00", "\x05\x01\x00\x01" + string(ip[:]) + string([]byte{byte(to.Port() >> 8), byte(to.Port())}), "\x05\x00........", "ping", "ping"}
}

func httpSteps(to netip.AddrPort) []string {
	return []string{"CONNECT " + to.String() + " HTTP/1.1\r\nHost: " + to.String() + "\r\n\r\n", "HTTP/1.1 200 Connection established\r\n\r\n", "ping", "ping"}
}

// Ten upgrades and ten reloads under a steady load of more than 500 connections
// a second lose none: with two accept sockets on a port, and with two listeners
// on port 0 of the same address, which speak different protocols, so that a
// socket that changed hands would be noticed. Tunnels of before the first one
// live on to their own end, and their process with them.
func TestUpgradesUnderLoad(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	unixSocket := filepath.Join(t.TempDir(), "s")
	config := writeFile(t, "c.toml", `
[log]
access = "off"
[limits]
exempt = ["127.0.0.0/8"]
[[listener]]
address = "127.0.0.1:0"
name = "shards"
reuse_port = 2
[[listener]]
address = "127.0.0.1:0"
protocols = ["socks5"]
[[listener]]
address = "127.0.0.1:0"
protocols = ["http"]
[[listener]]
address = "unix:`+unixSocket+`"
[admin]
address = "127.0.0.1:0"
`)
	d := lineageOf(startProgram(t, "--config", config, "--log-format", "json"))
	at := d.all("proxy listens")
	shards, socks, web := at[0].text("address"), at[1].text("address"), at[2].text("address")
	var tunnels []net.Conn
	for range 10 {
		c, code := connect(t, shards, echo)
		if code != 0 {
			t.Fatalf("reply %d", code)
		}
		_ = c.SetDeadline(time.Time{})
		echoes(t, c, "before")
		tunnels = append(tunnels, c)
	}
	first := d.pid
	begun := time.Now()
	l := startLoad(1500*time.Microsecond, through("tcp", shards, socksSteps(echo)...), through("tcp", socks, socksSteps(echo)...),
		through("tcp", web, httpSteps(echo)...), through("unix", unixSocket, socksSteps(echo)...))
	for n := range 10 {
		enough := l.made.Load() + 300 // between one change and the next
		eventually(t, "300 more connections", func() bool { return l.made.Load() >= enough })
		d.tell(syscall.SIGHUP)
		d.await("reloaded", n+1)
		d.upgrade()
	}
	took := time.Since(begun)
	l.end(t)
	t.Logf("%d connections in %s, %.0f a second, 10 upgrades, 10 reloads; the slowest took %s",
		l.made.Load(), took, float64(l.made.Load())/took.Seconds(), time.Duration(l.slowest.Load()))
	if again := d.all("proxy listens"); len(again) != 44 || again[40].text("address") != shards || again[41].text("address") != socks {
		t.Errorf("%d lines, the last %v", len(again), again[len(again)-4:])
	}
	for _, c := range tunnels {
		_ = c.SetDeadline(time.Now().Add(patience))
		echoes(t, c, "after")
	}
	if !runs(first) {
		t.Error("the first process has ended, with its tunnels open")
	}
	if got := d.metric(`cleversocks_upgrades_total{outcome="ok"}`); got != "10" {
		t.Errorf("%s upgrades counted", got)
	}
	for _, c := range tunnels {
		c.Close()
	}
	d.await("the predecessor has ended", 10)
	eventually(t, "the first process ends with its last tunnel", func() bool { return !runs(first) })
}

// ownBinary is a copy of the program, which a test may replace.
func ownBinary(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cleversocks")
	replaceBinary(t, path, binary)
	return path
}

// replaceBinary puts a file in another's place, as a package manager does.
func replaceBinary(t *testing.T, path, by string) {
	t.Helper()
	text, err := os.ReadFile(by)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", text, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// A successor that refuses its settings, crashes, or is not there leaves the
// daemon as it was, which says why: in the log, to who asked, and as a metric.
// The next upgrade works. (envoy#33446, haproxy#1883: a failure left the parent
// unable to try again.)
func TestFailedUpgrade(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	own := ownBinary(t)
	listener := "[[listener]]\naddress = \"127.0.0.1:0\"\n"
	good := withAPI(t, listener)
	config := writeFile(t, "c.toml", good)
	d := lineageOf(startCommand(t, exec.Command(own, "--config", config, "--log-format", "json")))
	ask := func() object {
		var answer object
		if status := d.call("POST", "/api/v1/upgrade", nil, &answer); status != 200 {
			t.Fatalf("status %d", status)
		}
		return answer
	}
	fails := func(what, want string) {
		t.Helper()
		if answer := ask(); answer["ok"] != false || !strings.Contains(fmt.Sprint(answer["error"]), want) {
			t.Errorf("%s: %v", what, answer)
		}
		c, code := connect(t, d.address, echo)
		if code != 0 {
			t.Errorf("%s: reply %d", what, code)
		}
		echoes(t, c, what)
		c.Close()
	}
	rewrite(t, config, "[log]\nlevle = \"info\"\n"+good)
	fails("settings", "unknown key")
	rewrite(t, config, good)
	script := writeFile(t, "crash", "#!/bin/sh\nexit 3\n")
	replaceBinary(t, own, script)
	fails("crash", "exit status 3")
	replaceBinary(t, own, writeFile(t, "closes", "#!/bin/sh\nexec 3>&-\nexec sleep 1000\n"))
	fails("a program that knows nothing of it", "ended before it was ready")
	if err := os.Remove(own); err != nil {
		t.Fatal(err)
	}
	fails("no program", "no such file")
	if got := d.metric(`cleversocks_upgrades_total{outcome="failed"}`); got != "4" {
		t.Errorf("%s failures counted", got)
	}
	if n := len(d.all("upgrade failed: this process goes on")); n != 4 {
		t.Errorf("%d lines", n)
	}
	replaceBinary(t, own, binary)
	answer := ask()
	if answer["ok"] != true {
		t.Fatalf("%v", answer)
	}
	old := d.pid
	d.succeeded()
	if fmt.Sprint(answer["pid"]) != strconv.Itoa(d.pid) {
		t.Errorf("%v, and process %d serves", answer, d.pid)
	}
	eventually(t, "the old process ends", func() bool { return !runs(old) })
	c, _ := connect(t, d.address, echo)
	echoes(t, c, "after")
	if got := d.metric(`cleversocks_upgrades_total{outcome="failed"}`); got != "4" {
		t.Errorf("%s failures known to the successor", got)
	}
}

// Secrets of the command line and the environment reach the successor, and the
// one after it, and nobody can read them in /proc; nor is a configuration lost
// that came through a pipe.
func TestUpgradePassesSecrets(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	for _, way := range []struct {
		name, env string
		args      string
	}{
		{"flag", "NOTHING=", "-u alice -P sekret-1"},
		{"upstream", "CLEVERSOCKS_AUTH__PASSWORD=sekret-1", "-u alice -f 192.0.2.99:80,x:sekret-2@192.0.2.98:1080,192.0.2.99:80"},
		{"environment", "CLEVERSOCKS_AUTH__PASSWORD=sekret-1", "-u alice"},
	} {
		t.Run(way.name, func(t *testing.T) {
			text := "[[listener]]\naddress = '127.0.0.1:0'\n[admin]\naddress = '127.0.0.1:0'\n"
			cmd := exec.Command("bash", "-c", "exec "+binary+" --log-format json "+way.args+" --config <(printf %s \"$SETTINGS\")")
			cmd.Env = []string{"SETTINGS=" + text, way.env}
			l := lineageOf(startCommand(t, cmd))
			for range 2 {
				l.upgrade()
				for _, file := range []string{"cmdline", "environ"} {
					b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", l.pid, file))
					if err != nil {
						t.Fatal(err)
					}
					if bytes.Contains(b, []byte("sekret")) {
						t.Errorf("%s: %q", file, b)
					}
				}
				c := login(t, l.address, "127.0.0.1", "alice", "sekret-1")
				if code := request(t, c, 1, echo); code != 0 {
					t.Errorf("reply %d", code)
				}
			}
		})
	}
}

// The first process of a container cannot hand over: the container ends with
// it. It says so, and goes on.
func TestNoUpgradeAsPID1(t *testing.T) {
	unshare := program(t, "unshare", "util-linux")
	d := start1(t, unshare)
	child := strings.TrimSpace(readText(t, fmt.Sprintf("/proc/%d/task/%d/children", d.Cmd.Process.Pid, d.Cmd.Process.Pid)))
	pid, err := strconv.Atoi(child)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGTERM) })
	if err := syscall.Kill(pid, syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	if l := d.waitLine("msg", "upgrade refused"); !strings.Contains(l.text("err"), "PID 1") {
		t.Errorf("%v", l)
	}
	if got := d.metric(`cleversocks_upgrades_total{outcome="refused"}`); got != "1" {
		t.Errorf("%s counted", got)
	}
}

func start1(t *testing.T, unshare string) *daemon {
	t.Helper()
	config := writeFile(t, "c.toml", "[[listener]]\naddress = '127.0.0.1:0'\n[admin]\naddress = '127.0.0.1:0'\n")
	return startCommand(t, exec.Command(unshare, "--pid", "--fork", "--kill-child", binary, "--config", config, "--log-format", "json"))
}

func readText(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What is known of clients passes to the successor without any file: who is let
// in by auth-once, who is banned and who is about to be, what of a quota is
// used. What a tunnel of the predecessor still moves counts there too, and ends
// with the quota, which the successor's clients use as well.
func TestUpgradePassesState(t *testing.T) {
	for _, directory := range []string{"", t.TempDir()} {
		echo := echoServer(t, "127.0.0.1:0")
		d := lineageOf(start(t, withAPI(t, "[state]\ndirectory = '"+directory+`'
[auth]
once = { enabled = true }
allow_plain_passwords = true
[limits]
auth_failures = { max = 3, window = "10m", ban = "10m", ban_max = "1h" }
[acl]
block_private = false
[[listener]]
address = "127.0.0.1:0"
[[user]]
name = "alice"
password = "right"
quota = { bytes = "100KiB", period = "720h" }
`)))
		c := login(t, d.address, "127.0.0.1", "alice", "right")
		if code := request(t, c, 1, echo); code != 0 {
			t.Fatalf("reply %d", code)
		}
		echoes(t, c, strings.Repeat("x", 10_000)) // 20,000 bytes
		wrong := func(source, password string) {
			c := dialProxyFrom(t, d.address, source)
			defer c.Close()
			send(t, c, 5, 1, 2)
			receive(t, c, 2)
			_, _ = c.Write([]byte("\x01\x05alice" + string(rune(len(password))) + password))
			_, _ = io.Copy(io.Discard, c)
		}
		for i := range 3 {
			wrong("127.0.0.3", fmt.Sprint("wrong", i))
		}
		for i := range 2 {
			wrong("127.0.0.4", fmt.Sprint("wrong", i))
		}
		d.upgrade()
		var bans, whitelist, users []object
		d.call("GET", "/api/v1/bans", nil, &bans)
		if len(bans) != 1 || bans[0]["source"] != "127.0.0.3/32" {
			t.Errorf("bans: %v", bans)
		}
		d.call("GET", "/api/v1/whitelist", nil, &whitelist)
		if len(whitelist) != 1 || whitelist[0]["address"] != "127.0.0.1" {
			t.Errorf("whitelist: %v", whitelist)
		}
		wrong("127.0.0.4", "wrong2") // the third
		d.call("GET", "/api/v1/bans", nil, &bans)
		if len(bans) != 2 {
			t.Errorf("bans: %v", bans)
		}
		used := func() float64 {
			d.call("GET", "/api/v1/users", nil, &users)
			return users[0]["quota"].(object)["used"].(float64)
		}
		if n := used(); n != 20_000 {
			t.Errorf("%v bytes used", n)
		}
		echoes(t, c, strings.Repeat("y", 5_000)) // in the predecessor
		eventually(t, "the successor counts what the predecessor moves", func() bool { return used() == 30_000 })
		anew, code := connect(t, d.address, echo) // auth-once
		if code != 0 {
			t.Fatalf("reply %d", code)
		}
		echoes(t, anew, strings.Repeat("z", 30_000))
		eventually(t, "both count", func() bool { return used() == 90_000 })
		// The predecessor hears of that, and has 12,400 bytes left.
		eventually(t, "the quota ends the predecessor's tunnel", func() bool {
			if _, err := c.Write(bytes.Repeat([]byte("q"), 500)); err != nil {
				return true
			}
			_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			_, err := io.ReadFull(c, make([]byte, 500))
			return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
		})
		if n := used(); n < 90_000 || n > 200_000 {
			t.Errorf("%v bytes of 102,400 used", n)
		}
	}
}

// Unix sockets, the admin endpoint's too, keep their files over upgrades, and
// the last process takes them along. A file that somebody has removed is made
// anew. (tableflip#24: clients found no file any more.)
func TestUpgradeKeepsUnixSockets(t *testing.T) {
	dir := t.TempDir()
	path, admin := filepath.Join(dir, "s"), filepath.Join(dir, "a")
	config := writeFile(t, "c.toml", "[[listener]]\naddress = 'unix:"+path+"'\n[[listener]]\naddress = 'unix:@cleversocks-upgrade'\n[admin]\naddress = 'unix:"+admin+"'\n")
	d := lineageOf(startProgram(t, "--config", config, "--log-format", "json"))
	get := func() error {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", admin)
		}}}
		resp, err := client.Get("http://localhost/readyz")
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	for n := range 3 {
		if n == 2 {
			if err := errors.Join(os.Remove(path), os.Remove(admin)); err != nil {
				t.Fatal(err)
			}
		}
		old := d.pid
		d.upgrade()
		eventually(t, "the old process ends", func() bool { return !runs(old) })
		if err := get(); err != nil {
			t.Errorf("admin after upgrade %d: %v", n+1, err)
		}
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatalf("after upgrade %d: %v", n+1, err)
		}
		send(t, c, 5, 1, 0)
		if got := receive(t, c, 2); got[1] != 0 {
			t.Errorf("%v", got)
		}
		c.Close()
		c, err = net.Dial("unix", "@cleversocks-upgrade")
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	d.tell(syscall.SIGTERM)
	eventually(t, "the files go with the last process", func() bool {
		left, _ := filepath.Glob(filepath.Join(dir, "*"))
		return len(left) == 0
	})
}

// The associations of UDP clients live on in the predecessor, and so does what
// a second upgrade finds there: it does not wait for the first one's tunnels.
// (tableflip#52: a further upgrade was blocked.) SIGUSR2 to a process that
// drains does nothing but tell (nghttp2#807: each started one of its own).
func TestUpgradeWhileDraining(t *testing.T) {
	echo, udp := echoServer(t, "127.0.0.1:0"), udpEcho(t, "127.0.0.1:0")
	d := lineageOf(start(t, withAPI(t, "[[listener]]\naddress = \"127.0.0.1:0\"\n")))
	first := d.pid
	a := mustAssociate(t, d.address)
	a.echoes("127.0.0.1", udp, "before")
	d.upgrade()
	second := d.pid
	c, _ := connect(t, d.address, echo)
	d.upgrade()
	if err := syscall.Kill(first, syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	d.waitMessage("no upgrade: this process drains, and has a successor")
	a.echoes("127.0.0.1", udp, "after")
	echoes(t, c, "after")
	var status object
	eventually(t, "both predecessors are known", func() bool {
		d.call("GET", "/api/v1/status", nil, &status)
		list, _ := status["predecessors"].([]any)
		return len(list) == 2 && list[0].(object)["connections"] == 1.0 && list[1].(object)["connections"] == 1.0
	})
	if got := fmt.Sprint(status["pid"]); got != strconv.Itoa(d.pid) {
		t.Errorf("pid %s", got)
	}
	c.Close()
	eventually(t, "the second ends with its tunnel", func() bool { return !runs(second) })
	a.control.Close()
	eventually(t, "the first ends with its association", func() bool { return !runs(first) })
	d.await("the predecessor has ended", 2)
}

// drain.upgrade_timeout ends what is left in the predecessor, and a stop signal
// does after drain.timeout.
func TestUpgradeTimeout(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	for _, way := range []struct {
		drain string
		stop  bool
	}{{"upgrade_timeout = \"500ms\"", false}, {"timeout = \"500ms\"", true}} {
		d := lineageOf(start(t, "[drain]\n"+way.drain+"\n[[listener]]\naddress = \"127.0.0.1:0\"\n"))
		first := d.pid
		c, _ := connect(t, d.address, echo)
		d.upgrade()
		if way.stop {
			if err := syscall.Kill(first, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the tunnel is open", way.drain)
		}
		eventually(t, "the predecessor ends", func() bool { return !runs(first) })
	}
}
