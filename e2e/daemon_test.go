package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cleversocks/e2e/process"
)

// patience bounds every wait.
const patience = process.Patience

// line is one line of the daemon's JSON log.
type line map[string]any

func (l line) text(key string) string { return fmt.Sprint(l[key]) }

// daemon is a running program under test, with what these tests ask of one.
type daemon struct {
	*process.Process
	t       *testing.T
	address string // of the first proxy listener
	admin   string
}

// start runs the program with a configuration file and flags, on free ports
// unless the file says otherwise, and waits until it serves. At the end of
// the test it is stopped, and must not have left a race or a panic behind.
func start(t *testing.T, toml string, flags ...string) *daemon {
	t.Helper()
	if !strings.Contains(toml, "[[listener]]") && !slices.Contains(flags, "-p") {
		toml += "\n[[listener]]\naddress = \"127.0.0.1:0\"\n"
	}
	if !strings.Contains(toml, "[admin]") {
		toml += "\n[admin]\naddress = \"127.0.0.1:0\"\npprof = true\n"
	}
	return startProgram(t, append([]string{"--config", writeFile(t, "cleversocks.toml", toml), "--log-format", "json"}, flags...)...)
}

// startProgram runs the program with exactly these arguments, which must
// include a JSON log.
func startProgram(t *testing.T, args ...string) *daemon {
	t.Helper()
	return startCommand(t, exec.Command(binary, args...))
}

func startCommand(t *testing.T, cmd *exec.Cmd) *daemon {
	t.Helper()
	cmd.Env = append(append(os.Environ(), cmd.Env...), "GORACE=halt_on_error=0 exitcode=66 atexit_sleep_ms=0", "CLEVERSOCKS_LOG__LEVEL=debug")
	p := process.Start(t, cmd)
	p.AwaitReady()
	return &daemon{Process: p, t: t, address: p.Address, admin: p.Admin}
}

func (d *daemon) log() string { return d.Log() }

// find waits for a line that fits, from the start of the log on.
func (d *daemon) find(what string, fits func(line) bool) line {
	d.t.Helper()
	return line(d.Find(what, func(l process.Line) bool { return fits(line(l)) }))
}

func (d *daemon) waitLine(key, value string) line {
	d.t.Helper()
	return d.find(fmt.Sprintf("with %s=%q", key, value), func(l line) bool { return l.text(key) == value })
}

// waitMessage waits for a line whose message contains text.
func (d *daemon) waitMessage(text string) line {
	d.t.Helper()
	return d.find(fmt.Sprintf("that says %q", text), func(l line) bool { return strings.Contains(l.text("msg"), text) })
}

// seen is the line with this message, or nil if there was none up to now.
func (d *daemon) seen(msg string) line {
	for _, l := range d.Lines() {
		if l["msg"] == msg {
			return line(l)
		}
	}
	return nil
}

// record waits for the access record of the connection to a target.
func (d *daemon) record(target string) line {
	d.t.Helper()
	return d.find("that records "+target, func(l line) bool { return l["msg"] == "connection" && l.text("target") == target })
}

func (d *daemon) signal(s os.Signal) {
	d.t.Helper()
	d.Signal(s)
}

// exitCode waits for the program's end.
func (d *daemon) exitCode() int {
	d.t.Helper()
	return d.ExitCode()
}

// get asks the admin endpoint.
func (d *daemon) get(path string) (status int, body string) {
	d.t.Helper()
	return d.Get(path)
}

// metric is the value of one series, "" when there is none.
func (d *daemon) metric(series string) string {
	d.t.Helper()
	_, body := d.get("/metrics")
	for l := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(l, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// settles waits for a series to have a value, since what it counts may be seen
// a moment before it is counted, and returns the last one.
func (d *daemon) settles(series, want string) (got string) {
	d.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		if got = d.metric(series); got == want || time.Now().After(deadline) {
			return got
		}
		pause := time.NewTimer(20 * time.Millisecond)
		<-pause.C
	}
}

// eventually waits for a condition that nothing announces, by asking.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		pause := time.NewTimer(10 * time.Millisecond)
		<-pause.C
	}
}

func (d *daemon) descriptors() int {
	d.t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.Cmd.Process.Pid))
	if err != nil {
		d.t.Fatal(err)
	}
	return len(entries)
}

// goroutines counts the program's, less those that serve the count.
func (d *daemon) goroutines() int {
	d.t.Helper()
	_, body := d.get("/debug/pprof/goroutine?debug=1")
	var n int
	if _, err := fmt.Sscanf(body, "goroutine profile: total %d", &n); err != nil {
		d.t.Fatalf("%v in %.80q", err, body)
	}
	return n
}

// held is what the program holds at a time.
type held struct{ goroutines, descriptors int }

// baseline is what the program holds when nothing goes on. Its services are
// still starting when it says that it is ready: what it holds must have stayed
// the same for some questions.
func (d *daemon) baseline() held {
	d.t.Helper()
	last, same := held{}, 0
	eventually(d.t, "it holds the same for a while", func() bool {
		now := d.holds()
		if now != last {
			last, same = now, 0
		}
		same++
		return same == 8
	})
	return last
}

// holds is what the program holds now, the connection of the question
// included.
func (d *daemon) holds() held {
	d.t.Helper()
	goroutines := d.goroutines() // first: it opens that connection
	return held{goroutines, d.descriptors()}
}

// backTo waits until the program holds no more than it did before.
func (d *daemon) backTo(before held) {
	d.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		now := d.holds()
		if now.goroutines <= before.goroutines && now.descriptors <= before.descriptors {
			return
		}
		if time.Now().After(deadline) {
			_, stacks := d.get("/debug/pprof/goroutine?debug=1")
			d.t.Fatalf("it holds %+v, before %+v:\n%s", now, before, stacks)
		}
		pause := time.NewTimer(20 * time.Millisecond)
		<-pause.C
	}
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func rewrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
