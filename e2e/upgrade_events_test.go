package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// slowSuccessor is a program that holds the channel and says nothing.
const slowSuccessor = "#!/bin/sh\nexec sleep 1000\n"

// While an upgrade is under way, another one is refused; a reload waits for it,
// and happens then, here after its failure; a stop ends both processes at once.
func TestEventsDuringUpgrade(t *testing.T) {
	own := ownBinary(t)
	config := writeFile(t, "c.toml", withAPI(t, "[[listener]]\naddress = \"127.0.0.1:0\"\n"))
	d := lineageOf(startCommand(t, exec.Command(own, "--config", config, "--log-format", "json")))
	replaceBinary(t, own, writeFile(t, "slow", slowSuccessor))
	d.tell(syscall.SIGUSR2)
	const starts = "upgrade: a successor starts"
	child := pidOf(t, d.await(starts, 1))
	var answer object
	d.call("POST", "/api/v1/upgrade", nil, &answer)
	if answer["ok"] != false || !strings.Contains(fmt.Sprint(answer["error"]), "under way") {
		t.Errorf("a second one: %v", answer)
	}
	d.tell(syscall.SIGHUP)
	if err := syscall.Kill(child, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if failed := d.await("upgrade failed: this process goes on", 1); !strings.Contains(failed.text("err"), "killed") {
		t.Errorf("%v", failed)
	}
	d.await("reloaded", 1)
	d.tell(syscall.SIGUSR2)
	child = pidOf(t, d.await(starts, 2))
	d.tell(syscall.SIGTERM)
	if code := d.exitCode(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	eventually(t, "the successor is gone", func() bool { return !runs(child) })
}

func pidOf(t *testing.T, l line) (pid int) {
	t.Helper()
	if _, err := fmt.Sscan(l.text("pid"), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// A SIGHUP that comes while the successor takes over is not lost: the
// predecessor passes it on.
func TestReloadDuringUpgrade(t *testing.T) {
	own := ownBinary(t)
	config := writeFile(t, "c.toml", withAPI(t, "[[listener]]\naddress = \"127.0.0.1:0\"\n"))
	d := lineageOf(startCommand(t, exec.Command(own, "--config", config, "--log-format", "json")))
	// It waits for a file before it begins. The predecessor's sandbox lets it start
	// what is beside the program.
	if err := os.Link(own, own+".real"); err != nil {
		t.Fatal(err)
	}
	gate := filepath.Join(t.TempDir(), "gate")
	replaceBinary(t, own, writeFile(t, "waits", "#!/bin/sh\nwhile ! [ -e "+gate+" ]; do sleep 0.05; done\nexec "+own+".real \"$@\"\n"))
	d.tell(syscall.SIGUSR2)
	d.await("upgrade: a successor starts", 1)
	d.tell(syscall.SIGHUP)
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d.succeeded()
	d.await("reloaded", 1)
	if n := len(d.all("upgrade failed: this process goes on")); n != 0 {
		t.Errorf("%d failures", n)
	}
}

// Neither upgrades nor failures leave descriptors behind, in the old process or
// in the new one.
func TestUpgradeLeaksNothing(t *testing.T) {
	own := ownBinary(t)
	good := withAPI(t, "[[listener]]\naddress = \"127.0.0.1:0\"\nreuse_port = 3\n")
	config := writeFile(t, "c.toml", good)
	d := lineageOf(startCommand(t, exec.Command(own, "--config", config, "--log-format", "json")))
	before := d.baseline()
	rewrite(t, config, "nonsense")
	for n := range 3 {
		d.tell(syscall.SIGUSR2)
		d.await("upgrade failed: this process goes on", n+1)
	}
	d.backTo(before)
	rewrite(t, config, good)
	open := func() int {
		entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.pid))
		return len(entries)
	}
	d.upgrade()
	d.await("the predecessor has ended", 1)
	after, same := -1, 0
	eventually(t, "it has opened all that it does", func() bool {
		if now := open(); now != after {
			after, same = now, 0
		}
		same++
		return same == 8
	})
	for n := range 4 {
		d.upgrade()
		d.await("the predecessor has ended", n+2)
	}
	eventually(t, fmt.Sprintf("as many descriptors as after the first upgrade, %d", after), func() bool { return open() <= after })
}

// A rotation reaches the processes that drain: their records are in the new file.
func TestRotationReachesPredecessors(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	path := filepath.Join(t.TempDir(), "access.log")
	d := lineageOf(start(t, "[log]\naccess_output = '"+path+"'\n[[listener]]\naddress = \"127.0.0.1:0\"\n"))
	c, _ := connect(t, d.address, echo)
	d.upgrade()
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	d.tell(syscall.SIGHUP)
	d.await("reloaded", 1)
	// The predecessor says nothing of it, but has the new file open.
	eventually(t, "the predecessor has the new file", func() bool {
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", d.Cmd.Process.Pid))
		for _, l := range links {
			if to, _ := os.Readlink(l); to == path {
				return true
			}
		}
		return false
	})
	c.Close()
	eventually(t, "its record is in the new file", func() bool {
		text, _ := os.ReadFile(path)
		return strings.Contains(string(text), echo.String())
	})
}

// An upgrade is a reload too. Listeners that go, come, are renamed or are given
// by the port that they have, all under load, lose no connection; a changed
// number of accept sockets keeps them and says so. What the successor cannot
// have, as the old one needs it, is an upgrade that fails.
func TestUpgradeWithOtherSettings(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	listener := func(address, more string) string {
		return "[[listener]]\naddress = \"" + address + "\"\n" + more
	}
	api := withAPI(t, "[log]\naccess = \"off\"\n[limits]\nexempt = [\"127.0.0.0/8\"]\n") // its token is where the sandbox has it
	settings := func(listeners ...string) string { return api + strings.Join(listeners, "") }
	config := writeFile(t, "c.toml", settings(listener("127.0.0.1:0", "reuse_port = 3\n"), listener("127.0.0.1:0", "name = \"named\"\n"), listener("127.0.0.1:0", "name = \"goes\"\n")))
	d := lineageOf(startProgram(t, "--config", config, "--log-format", "json"))
	at := d.all("proxy listens")
	shards, named, goes := at[0].text("address"), at[1].text("address"), at[2].text("address")
	stays := startLoad(3*time.Millisecond, through("tcp", shards, socksSteps(echo)...), through("tcp", named, socksSteps(echo)...))
	left := startLoad(3*time.Millisecond, unlessClosed(through("tcp", goes, socksSteps(echo)...)))
	enough := func() {
		n := left.made.Load() + 200
		eventually(t, "200 more", func() bool { return left.made.Load() >= n })
	}
	enough()
	_, port, _ := net.SplitHostPort(named)
	rewrite(t, config, settings(listener("127.0.0.1:0", "reuse_port = 1\n"), listener("127.0.0.1:"+port, "name = \"renamed\"\n"), listener("127.0.0.2:0", "name = \"new\"\n")))
	d.upgrade()
	enough()
	stays.end(t)
	left.end(t)
	if l := d.await("reuse_port has changed, which takes a restart: the listener keeps its accept sockets", 1); l.text("sockets") != "3" {
		t.Errorf("%v", l)
	}
	if _, err := net.Dial("tcp", goes); err == nil {
		t.Error("the listener that is gone is open")
	}
	now := d.all("proxy listens")[3:]
	if len(now) != 3 || now[0].text("address") != shards || now[1].text("address") != named || now[1].text("name") != "renamed" {
		t.Errorf("%v", now)
	}
	c, _ := connect(t, now[2].text("address"), echo)
	echoes(t, c, "new")
	rewrite(t, config, settings(listener("0.0.0.0:"+port, "")))
	d.tell(syscall.SIGUSR2)
	if l := d.await("upgrade failed: this process goes on", 1); !strings.Contains(l.text("err"), "address already in use") || !strings.Contains(l.text("err"), "predecessor") {
		t.Errorf("%v", l)
	}
	c, _ = connect(t, named, echo)
	echoes(t, c, "still")
}

// unlessClosed passes over the connections that are refused, or have no answer
// at all, as when the port is being closed.
func unlessClosed(f func() error) func() error {
	return func() error {
		if err := f(); err != nil && !strings.HasPrefix(err.Error(), "connect: ") {
			return err
		}
		return nil
	}
}

// What a process that drains still has is judged by the settings of now: a user
// who is disabled, or whom a rule keeps from where a tunnel leads, is out there
// too, by a reload and by an upgrade alike. Others go on. Settings that the daemon
// refuses, or has not read, are not in force there either: they were, in one process
// alone.
func TestPredecessorFollowsSettings(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	api := withAPI(t, "") // once: the sandbox holds the token's folder
	users := writeFile(t, "users", "erin:right\n")
	settings := func(rule string, disabled ...string) string {
		text := "[auth]\nallow_plain_passwords = true\nusers_file = '" + users + "'\n[reload]\nrevoke = true\n[acl]\nblock_private = false\n" + rule + "[[listener]]\naddress = \"127.0.0.1:0\"\n"
		for _, name := range []string{"alice", "bob", "carol", "dave"} {
			text += fmt.Sprintf("[[user]]\nname = %q\npassword = \"right\"\ndisabled = %t\n", name, slices.Contains(disabled, name))
		}
		return text + api
	}
	config := writeFile(t, "c.toml", settings(""))
	d := lineageOf(startProgram(t, "--config", config, "--log-format", "json"))
	tunnel := func(user string) net.Conn {
		c := login(t, d.address, "127.0.0.1", user, "right")
		if code := request(t, c, 1, echo); code != 0 {
			t.Fatalf("reply %d", code)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		return c
	}
	alice, bob, carol, dave, erin := tunnel("alice"), tunnel("bob"), tunnel("carol"), tunnel("dave"), tunnel("erin")
	ended := func(what string, c net.Conn) {
		t.Helper()
		if _, err := c.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	rewrite(t, config, settings("", "dave"))
	d.upgrade()
	ended("disabled by an upgrade", dave) // the predecessor has read the settings for it
	taken := "[[listener]]\naddress = \"" + echo.String() + "\"\n"
	rewrite(t, config, settings(taken, "alice", "dave"))
	d.tell(syscall.SIGHUP)
	d.await("reload failed: the old configuration stays", 1)
	echoes(t, alice, "on")
	rewrite(t, config, settings("", "alice", "dave"))
	d.tell(syscall.SIGHUP)
	ended("disabled by a reload", alice)
	rewrite(t, config, settings("[[acl.rule]]\naction = \"deny\"\nusers = [\"bob\"]\n", "alice", "dave"))
	d.upgrade()
	ended("denied by an upgrade", bob)
	rewrite(t, config, settings("", "carol")) // is not meant yet
	if status := d.call("PATCH", "/api/v1/users/erin", object{"disabled": true}, nil); status != 200 {
		t.Errorf("status %d", status)
	}
	ended("disabled by the API", erin)
	echoes(t, carol, "on")
}
