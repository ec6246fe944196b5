package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
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
