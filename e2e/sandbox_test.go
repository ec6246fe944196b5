package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// confined is what the daemon says of its sandbox.
func (d *daemon) confined() (s struct {
	Landlock  string
	Seccomp   bool
	Inherited bool
	CoreDumps bool `json:"core_dumps"`
},
) {
	d.t.Helper()
	_, body := d.get("/status")
	into := struct{ Sandbox any }{&s}
	if err := json.Unmarshal([]byte(body), &into); err != nil {
		d.t.Fatalf("%v: %s", err, body)
	}
	return s
}

// without says how many of a process's threads lack a line of their status.
func without(t *testing.T, pid int, line string) int {
	t.Helper()
	tasks, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/status")
	if err != nil || len(tasks) == 0 {
		t.Fatal(tasks, err)
	}
	n := 0
	for _, task := range tasks {
		if status, err := os.ReadFile(task); err == nil && !strings.Contains(string(status), line) {
			n++
		}
	}
	return n
}

// The sandbox is entered by default, by all threads. A file that another one has
// replaced is read, and so is a new one beside it; a reload that names one
// elsewhere changes nothing and says that a restart is needed.
func TestSandbox(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	inside, outside := writeFile(t, "users", "alice:"+cheapHash(t, "one")+"\n"), writeFile(t, "users", "alice:"+cheapHash(t, "one")+"\n")
	settings := func(users, more string) string {
		return "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[auth]\nusers_file = \"" + users + "\"\n" + more
	}
	file := writeFile(t, "c.toml", settings(inside, ""))
	d := startProgram(t, "--config", file, "--log-format", "json")
	if s := d.confined(); !strings.HasPrefix(s.Landlock, "files (version ") || !s.Seccomp || s.Inherited || s.CoreDumps {
		t.Errorf("%+v", s)
	}
	if without(t, d.Cmd.Process.Pid, "Seccomp:\t2") != 0 || without(t, d.Cmd.Process.Pid, "NoNewPrivs:\t1") != 0 {
		t.Error("threads are outside")
	}
	limits, err := os.ReadFile("/proc/" + strconv.Itoa(d.Cmd.Process.Pid) + "/limits")
	if err != nil || !strings.Contains(string(limits), "Max core file size        0                    0") {
		t.Errorf("%s, %v", limits, err)
	}

	beside := filepath.Join(filepath.Dir(inside), "next")
	rewrite(t, beside, "bob:"+cheapHash(t, "two")+"\n")
	if err := os.Rename(beside, inside); err != nil {
		t.Fatal(err)
	}
	d.signal(syscall.SIGHUP)
	d.waitLine("msg", "reloaded")
	c := login(t, d.address, "127.0.0.5", "bob", "two")
	if code := request(t, c, 1, echo); code != succeeded {
		t.Errorf("reply %d", code)
	}
	echoes(t, c, "hello")

	for reload, toml := range []string{
		settings(outside, ""), // cannot be read
		settings(inside, "[state]\ndirectory = \""+t.TempDir()+"\"\n"), // could not be written
	} {
		rewrite(t, file, toml)
		d.signal(syscall.SIGHUP)
		refused := d.find("that refuses", func(l line) bool {
			return l["msg"] == "reload failed: the old configuration stays" && strings.Contains(l.text("err"), []string{"users", "writing"}[reload])
		})
		if !strings.Contains(refused.text("err"), "restart needed") {
			t.Errorf("%v", refused)
		}
	}
	echoes(t, c, "still here")
}

// With "on" the daemon is kept to its ports too, and to those that the kernel
// chooses. Without it nothing is given up.
func TestSandboxModes(t *testing.T) {
	file := writeFile(t, "c.toml", "")
	settings := func(mode string, more ...string) string {
		text := "[admin]\naddress = \"127.0.0.1:0\"\n[sandbox]\nlandlock = \"" + mode + "\"\nseccomp = \"" + mode + "\"\ncore_dumps = true\n"
		for _, address := range append(more, "127.0.0.1:0") {
			text += "[[listener]]\naddress = \"" + address + "\"\n"
		}
		return text
	}
	rewrite(t, file, settings("on"))
	d := startProgram(t, "--config", file, "--log-format", "json")
	if s := d.confined(); !strings.HasPrefix(s.Landlock, "files and TCP ports") || !s.CoreDumps {
		t.Errorf("%+v", s)
	}
	c, code, at := askBind(t, d.address, anyone)
	if code != succeeded {
		t.Errorf("reply %d", code)
	}
	if peer, err := connectFrom(t, "127.0.0.1", at); err != nil {
		t.Error(err)
	} else {
		peer.Close()
	}
	c.Close()
	rewrite(t, file, settings("on", "127.0.0.1:"+freePort(t)))
	d.signal(syscall.SIGHUP)
	if l := d.waitLine("msg", "reload failed: the old configuration stays"); !strings.Contains(l.text("err"), "restart needed") || !strings.Contains(l.text("err"), "TCP port") {
		t.Errorf("%v", l)
	}

	rewrite(t, file, settings("off"))
	free := startProgram(t, "--config", file, "--log-format", "json")
	if s := free.confined(); s.Landlock != "off" || s.Seccomp {
		t.Errorf("%+v", s)
	}
	rewrite(t, file, settings("off", "127.0.0.1:"+freePort(t)))
	free.signal(syscall.SIGHUP)
	free.waitLine("msg", "reloaded")
}

// A successor is in its predecessor's sandbox, and reads its settings and starts
// the next one there. Landlock counts domains up to sixteen: it enters no second, or
// the seventeenth upgrade would fail. What it cannot have there has the sandbox
// named as what may be in the way.
func TestSandboxOverUpgrades(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	users := writeFile(t, "users", "alice:"+cheapHash(t, "one")+"\n")
	file := writeFile(t, "c.toml", "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[auth]\nusers_file = \""+users+"\"\n")
	l := lineageOf(startProgram(t, "--config", file, "--log-format", "json"))
	for n := range 18 {
		l.await("ready", n+1) // until then it refuses another one
		l.upgrade()
		if s := l.confined(); !s.Inherited || !strings.HasPrefix(s.Landlock, "files") || !s.Seccomp {
			t.Fatalf("%+v", s)
		}
	}
	c := login(t, l.address, "127.0.0.5", "alice", "one")
	if code := request(t, c, 1, echo); code != succeeded {
		t.Fatalf("reply %d", code)
	}
	echoes(t, c, "hello")
	l.tell(syscall.SIGHUP)
	l.waitLine("msg", "reloaded")
	rewrite(t, file, strings.Replace(readText(t, file), "[admin]\naddress = \"127.0.0.1:0\"", "[admin]\naddress = \"unix:"+t.TempDir()+"/admin\"", 1))
	l.tell(syscall.SIGUSR2)
	if failed := l.await("upgrade failed: this process goes on", 1); !strings.Contains(failed.text("err"), "permission denied (restart needed") {
		t.Errorf("%v", failed)
	}
}

// The directory that ACME's certificates are kept in is made, but none above it: a
// misspelt one is an error of check and of the start, as one of a log is.
func TestDirectoriesThatAreMade(t *testing.T) {
	dir := t.TempDir()
	settings := func(what, cache string) string {
		return writeFile(t, "c.toml", what+"\n[[listener]]\naddress = \"127.0.0.1:0\"\ntls.acme = { domains = [\"proxy.example\"], directory = \"https://127.0.0.1:9/\", cache = \""+cache+"\" }\n[admin]\naddress = \"127.0.0.1:0\"\n")
	}
	made := filepath.Join(dir, "acme")
	d := startProgram(t, "--config", settings("", made), "--log-format", "json")
	if s := d.confined(); !strings.HasPrefix(s.Landlock, "files") {
		t.Errorf("%+v", s)
	}
	if info, err := os.Stat(made); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	for file, want := range map[string]string{
		settings("", filepath.Join(dir, "misspelt", "acme")):                                     "listener[0].tls.acme.cache: ",
		settings("[log]\naccess_output = \""+filepath.Join(dir, "misspelt", "log")+"\"\n", made): "log.access_output: ",
	} {
		for _, args := range [][]string{{"check", "--config", file}, {"--config", file}} {
			if _, out, code := command(t, "", args...); code != 2 || !strings.Contains(out, want) || !strings.Contains(out, file+":") {
				t.Errorf("%q: exit %d: %s", args, code, out)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "misspelt")); err == nil {
		t.Error("a misspelt directory was made")
	}
}

// check tells what would be in force.
func TestCheckTellsTheSandbox(t *testing.T) {
	out, _, code := command(t, "", "check", "--config", writeFile(t, "c.toml", "[resolver]\nservers = [\"udp://192.0.2.1\"]\n"))
	if code != 0 || !strings.Contains(out, "in force: files (version ") || !strings.Contains(out, "in force: on") {
		t.Errorf("exit %d:\n%s", code, out)
	}
}
