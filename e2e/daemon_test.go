package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait: it is how long a broken program holds a test
// up, never how long a working one takes.
const patience = 20 * time.Second

// line is one line of the daemon's JSON log.
type line map[string]any

func (l line) text(key string) string { return fmt.Sprint(l[key]) }

// daemon is a running program under test.
type daemon struct {
	t      *testing.T
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // of Wait, once exited is closed

	mu    sync.Mutex
	lines []line
	raw   bytes.Buffer
	more  chan struct{} // closed and made anew with every line

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
	d := &daemon{t: t, cmd: cmd, exited: make(chan struct{}), more: make(chan struct{})}
	d.cmd.Env = append(append(os.Environ(), d.cmd.Env...), "GORACE=halt_on_error=0 exitcode=66 atexit_sleep_ms=0", "CLEVERSOCKS_LOG__LEVEL=debug")
	stderr, err := d.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.exited)
		d.read(stderr)
		d.err = d.cmd.Wait()
	}()
	t.Cleanup(d.finish)
	d.address = d.waitLine("msg", "proxy listens").text("address")
	d.waitLine("msg", "ready")
	d.admin = d.seen("admin endpoint listens").text("address")
	return d
}

func (d *daemon) read(r io.Reader) {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		l := line{}
		if json.Unmarshal(scanner.Bytes(), &l) != nil {
			l = line{"msg": scanner.Text()}
		}
		d.mu.Lock()
		d.lines = append(d.lines, l)
		d.raw.Write(scanner.Bytes())
		d.raw.WriteByte('\n')
		close(d.more)
		d.more = make(chan struct{})
		d.mu.Unlock()
	}
}

// finish stops the program if it still runs.
func (d *daemon) finish() {
	select {
	case <-d.exited:
	default:
		_ = d.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-d.exited:
		case <-time.After(patience):
			_ = d.cmd.Process.Signal(syscall.SIGQUIT)
			<-d.exited
			d.t.Errorf("the program did not stop")
		}
	}
	log := d.log()
	if strings.Contains(log, "DATA RACE") || strings.Contains(log, "panic") {
		d.t.Errorf("a race or a panic in the program's log")
	}
	if d.t.Failed() {
		d.t.Logf("the program's log:\n%s", log)
	}
}

func (d *daemon) log() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.raw.String()
}

// find waits for a line that fits, from the start of the log on.
func (d *daemon) find(what string, fits func(line) bool) line {
	d.t.Helper()
	deadline := time.After(patience)
	for seen := 0; ; {
		d.mu.Lock()
		lines, more := d.lines[seen:], d.more
		seen = len(d.lines)
		d.mu.Unlock()
		for _, l := range lines {
			if fits(l) {
				return l
			}
		}
		select {
		case <-more:
		case <-d.exited:
			d.t.Fatalf("the program ended (%v) without a line %s:\n%s", d.err, what, d.log())
		case <-deadline:
			d.t.Fatalf("no line %s:\n%s", what, d.log())
		}
	}
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
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.lines {
		if l["msg"] == msg {
			return l
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
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Fatal(err)
	}
}

// exitCode waits for the program's end.
func (d *daemon) exitCode() int {
	d.t.Helper()
	select {
	case <-d.exited:
	case <-time.After(patience):
		d.t.Fatal("the program does not end")
	}
	if exit, ok := errors.AsType[*exec.ExitError](d.err); ok {
		return exit.ExitCode()
	}
	return 0
}

// get asks the admin endpoint.
func (d *daemon) get(path string) (status int, body string) {
	d.t.Helper()
	resp, err := http.Get("http://" + d.admin + path)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
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
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.cmd.Process.Pid))
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
