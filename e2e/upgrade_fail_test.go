package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

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
	const failed = "upgrade failed: this process goes on"
	d.await(failed, 4) // the answer may be here before the line is read
	if n := len(d.all(failed)); n != 4 {
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

// Below a program that takes the end of the one process which it has started for
// the daemon's (docker --init, runit, s6, supervisord) an upgrade would end in an
// outage as the predecessor ends, and is refused. (grace#11, tini#168: the container
// was gone.)
func TestNoUpgradeBelowASupervisor(t *testing.T) {
	sh := filepath.Join(t.TempDir(), "s6-supervise")
	replaceBinary(t, sh, "/bin/sh")
	config := writeFile(t, "c.toml", withAPI(t, "[[listener]]\naddress = \"127.0.0.1:0\"\n"))
	d := startCommand(t, exec.Command(sh, "-c", "trap 'kill $!; wait; exit 0' TERM; "+binary+" --config "+config+" --log-format json & wait"))
	var answer object
	if d.call("POST", "/api/v1/upgrade", nil, &answer); answer["ok"] != false || !strings.Contains(fmt.Sprint(answer["error"]), "s6-supervise takes the end of this process for the daemon's") {
		t.Errorf("%v", answer)
	}
}

// Whoever has come into a container that was there ("docker exec", nsenter) has no parent
// there either, as a pod's container that shares its processes, and was taken for one.
// Nothing ends with it, and it is upgraded.
func TestUpgradeInsideAContainer(t *testing.T) {
	container := exec.Command(program(t, "unshare", "util-linux"), "--pid", "--fork", "--kill-child", "--mount-proc", "sleep", "600")
	if err := container.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { // before the daemon's own clean-up, which waits for what it has started
		_ = container.Process.Kill() // and with it all that is inside
		_ = container.Wait()
	}()
	inside, children := "", fmt.Sprintf("/proc/%d/task/%d/children", container.Process.Pid, container.Process.Pid)
	eventually(t, "its first process", func() bool {
		inside = strings.TrimSpace(readText(t, children))
		comm, err := os.ReadFile("/proc/" + inside + "/comm")
		return inside != "" && err == nil && string(comm) == "sleep\n" // its /proc is mounted
	})
	config := writeFile(t, "c.toml", withAPI(t, "[[listener]]\naddress = \"127.0.0.1:0\"\n"))
	d := startCommand(t, exec.Command(program(t, "nsenter", "util-linux"), "-t", inside, "-p", "-m", binary, "--config", config, "--log-format", "json"))
	var answer object
	if d.call("POST", "/api/v1/upgrade", nil, &answer); answer["ok"] != true {
		t.Errorf("%v", answer)
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

// asSuccessor has this test binary be a successor that says it is ready, and
// ends when it has got the turn: it is the program of the next version that
// crashes on what it finds.
const asSuccessor = "E2E_AS_SUCCESSOR"

func succeedBadly() int {
	const channel = 3 // SD_LISTEN_FDS_START
	buf := make([]byte, 1<<16)
	for _, want := range []string{`"kind":"hello"`, `"kind":"yours"`} {
		for text := ""; !strings.Contains(text, want); {
			n, err := syscall.Read(channel, buf)
			if errors.Is(err, syscall.EAGAIN) {
				poll := []unix.PollFd{{Fd: channel, Events: unix.POLLIN}}
				_, _ = unix.Poll(poll, -1)
				continue
			}
			if err != nil || n == 0 {
				return 4
			}
			text = string(buf[:n])
		}
		if _, err := syscall.Write(channel, []byte(`l{"kind":"ready","body":[0,1,2,3,4,5,6,7]}`)); err != nil {
			return 5
		}
	}
	return 3
}

// badSuccessor is a program that succeeds badly, beside the one given, where
// that one's sandbox lets it be started.
func badSuccessor(t *testing.T, own string) (script string) {
	t.Helper()
	replaceBinary(t, own+".bad", os.Args[0])
	return writeFile(t, "bad", "#!/bin/sh\n"+asSuccessor+"=1 exec "+own+".bad\n")
}

// A successor that crashes when it has the turn, while nobody accepts, gives it
// back by that: clients that came meanwhile have waited, and none is lost.
func TestSuccessorCrashesWithTheTurn(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	own := ownBinary(t)
	config := writeFile(t, "c.toml", withAPI(t, "[log]\naccess = \"off\"\n[limits]\nexempt = [\"127.0.0.0/8\"]\n[[listener]]\naddress = \"127.0.0.1:0\"\nreuse_port = 2\n"))
	d := lineageOf(startCommand(t, exec.Command(own, "--config", config, "--log-format", "json")))
	tunnel, _ := connect(t, d.address, echo)
	replaceBinary(t, own, badSuccessor(t, own))
	l := startLoad(3*time.Millisecond, through("tcp", d.address, socksSteps(echo)...))
	for n := range 3 {
		d.tell(syscall.SIGUSR2)
		if failed := d.await("upgrade failed: this process goes on", n+1); !strings.Contains(failed.text("err"), "exit status 3") {
			t.Errorf("%v", failed)
		}
		enough := l.made.Load() + 50
		eventually(t, "50 more", func() bool { return l.made.Load() >= enough })
	}
	replaceBinary(t, own, binary)
	d.upgrade()
	l.end(t)
	echoes(t, tunnel, "on")
}

// A successor that dies once it serves takes no connection of the predecessor's
// with it: that says so, and ends with its last one.
func TestSuccessorDies(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	d := lineageOf(start(t, "[[listener]]\naddress = \"127.0.0.1:0\"\n"))
	first := d.pid
	c, _ := connect(t, d.address, echo)
	d.upgrade()
	d.tell(syscall.SIGKILL)
	d.await("the successor has ended; connections go on here", 1)
	echoes(t, c, "on")
	c.Close()
	eventually(t, "the predecessor ends with its tunnel", func() bool { return !runs(first) })
}

// A predecessor that crashes or is killed while its successor starts, as a memory
// limit makes it that two processes exceed, takes nobody along but its own
// connections: the successor has the sockets and their queues, and serves, with what
// was saved. (envoy#33216: the child crashed, too.)
func TestPredecessorDies(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	own, state := ownBinary(t), t.TempDir()
	config := writeFile(t, "c.toml", withAPI(t, "[[listener]]\naddress = \"127.0.0.1:0\"\n[state]\ndirectory = '"+state+"'\n"))
	d := lineageOf(startCommand(t, exec.Command(own, "--config", config, "--log-format", "json")))
	if status := d.call("POST", "/api/v1/bans", object{"source": "192.0.2.7", "duration": "10m"}, nil); status != 200 {
		t.Fatalf("status %d", status)
	}
	d.signal(syscall.SIGTERM)
	d.exitCode() // the ban is saved
	d = lineageOf(startCommand(t, exec.Command(own, "--config", config, "--log-format", "json")))
	tunnel, _ := connect(t, d.address, echo)
	d.upgrade() // a process of before the one that dies lives on
	replaceBinary(t, own+".good", binary)
	dead := filepath.Join(filepath.Dir(config), "dead")
	replaceBinary(t, own, writeFile(t, "slow", "#!/bin/sh\nuntil [ -e "+dead+" ]; do sleep 0.02; done\nexec "+own+".good \"$@\"\n"))
	killed := d.pid
	d.tell(syscall.SIGUSR2)
	pid, err := strconv.Atoi(d.await("upgrade: a successor starts", 2).text("pid"))
	if err != nil {
		t.Fatal(err)
	}
	d.pids, d.pid = append(d.pids, pid), pid
	if err := syscall.Kill(killed, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waits := dialProxy(t, d.address)
	send(t, waits, 5, 1, 0)
	eventually(t, "the predecessor is gone", func() bool { return !runs(killed) })
	rewrite(t, dead, "")
	d.await("the predecessor has ended without giving the turn: this process serves in its place", 1)
	receive(t, waits, 2)
	if code := request(t, waits, 1, echo); code != 0 {
		t.Errorf("who waited has reply %d", code)
	}
	echoes(t, waits, "in place")
	echoes(t, tunnel, "of before")
	var sessions struct {
		Sessions []struct{ ID string } `json:"sessions"`
	}
	var bans []object
	d.call("GET", "/api/v1/sessions", nil, &sessions)
	if s := sessions.Sessions; len(s) != 2 || s[0].ID == s[1].ID {
		t.Errorf("%v", s)
	}
	if d.call("GET", "/api/v1/bans", nil, &bans); len(bans) != 1 {
		t.Errorf("%v", bans)
	}
	replaceBinary(t, own, binary)
	d.tell(syscall.SIGUSR2)
	d.done = len(d.all(upgraded))
	d.succeeded()
}

// An upgrade is a reload, and opens a proxy as little as one does: by a file that
// was cut short, or emptied by who writes it anew.
func TestUpgradeStaysClosed(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	api := withAPI(t, "[[listener]]\naddress = \"127.0.0.1:0\"\n")
	users := "[auth]\nallow_plain_passwords = true\n[[user]]\nname = \"alice\"\npassword = \"right\"\n"
	config := writeFile(t, "c.toml", users+api)
	d := lineageOf(startProgram(t, "--config", config, "--log-format", "json"))
	for _, c := range []struct{ text, why string }{{api, "would open the proxy"}, {"", "is empty, and was not before"}} {
		rewrite(t, config, c.text)
		var answer object
		if d.call("POST", "/api/v1/upgrade", nil, &answer); answer["ok"] != false || !strings.Contains(fmt.Sprint(answer["error"]), c.why) {
			t.Errorf("%v, want %q", answer, c.why)
		}
	}
	rewrite(t, config, users+api)
	d.upgrade()
	rewrite(t, config, api) // the successor knows it, too
	d.tell(syscall.SIGUSR2)
	d.await("upgrade failed: this process goes on", 3)
	rewrite(t, config, "[auth]\nrequired = false\n"+api)
	d.upgrade()
	c, code := connect(t, d.address, echo)
	if code != 0 {
		t.Errorf("meant to be open: reply %d", code)
	}
	echoes(t, c, "open")
}
