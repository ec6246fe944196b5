// Package process runs the built daemon for tests: its JSON log is read line by
// line, it is sent signals, asked at its admin endpoint, and ends with its test.
//
//	p := process.Start(t, exec.Command("cleversocks", "--log-format", "json", ...))
//	p.AwaitReady()
//	connect(p.Address)
package process

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
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Patience bounds every wait: it is how long a broken program holds a test
// up, never how long a working one takes.
const Patience = 20 * time.Second

// Line is one line of the log. One that is not JSON is its "msg".
type Line map[string]any

// Text is a field as text.
func (l Line) Text(key string) string { return fmt.Sprint(l[key]) }

// Process is a daemon that runs.
type Process struct {
	Cmd     *exec.Cmd
	Exited  chan struct{} // closed when it has ended and its log has been read
	Address string        // of the first proxy listener, once it is ready
	Admin   string        // of the admin endpoint, likewise; "" without one

	t      testing.TB
	stderr *os.File
	err    error // of Wait, once Exited is closed

	mu    sync.Mutex
	lines []Line
	raw   bytes.Buffer
	more  chan struct{} // closed and made anew with every line
	next  int           // of lines; see Next
}

// Start runs the command, which must write its log as JSON. At the end of the
// test it is stopped, and must not have left a race or a panic behind.
func Start(tb testing.TB, cmd *exec.Cmd) *Process {
	tb.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	p := &Process{Cmd: cmd, Exited: make(chan struct{}), t: tb, stderr: read, more: make(chan struct{})}
	cmd.Stderr = write
	err = cmd.Start()
	_ = write.Close()
	if err != nil {
		_ = read.Close()
		tb.Fatal(err)
	}
	go func() {
		defer close(p.Exited)
		p.read()
		p.err = cmd.Wait()
	}()
	tb.Cleanup(p.finish)
	return p
}

// AwaitReady waits until it serves, and learns its addresses.
func (p *Process) AwaitReady() {
	p.t.Helper()
	says := func(text string) Line {
		return p.Find(fmt.Sprintf("that says %q", text), func(l Line) bool { return l["msg"] == text })
	}
	p.Address = says("proxy listens").Text("address")
	says("ready")
	for _, l := range p.Lines() {
		if l["msg"] == "admin endpoint listens" {
			p.Admin = l.Text("address")
			break
		}
	}
}

// HangUp closes the end of the log that is read here.
func (p *Process) HangUp() { _ = p.stderr.Close() }

func (p *Process) read() {
	defer p.HangUp()
	scanner := bufio.NewScanner(p.stderr)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		l := Line{}
		if json.Unmarshal(scanner.Bytes(), &l) != nil {
			l = Line{"msg": scanner.Text()}
		}
		p.mu.Lock()
		p.lines = append(p.lines, l)
		p.raw.Write(scanner.Bytes())
		p.raw.WriteByte('\n')
		close(p.more)
		p.more = make(chan struct{})
		p.mu.Unlock()
	}
}

// finish stops the program if it still runs.
func (p *Process) finish() {
	select {
	case <-p.Exited:
	default:
		_ = p.Cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.Exited:
		case <-time.After(Patience):
			_ = p.Cmd.Process.Signal(syscall.SIGQUIT)
			<-p.Exited
			p.t.Errorf("the program did not stop")
		}
	}
	log := p.Log()
	if strings.Contains(log, "DATA RACE") || strings.Contains(log, "panic") {
		p.t.Errorf("a race or a panic in the program's log")
	}
	if p.t.Failed() {
		p.t.Logf("the program's log:\n%s", log)
	}
}

// Log is all of it up to now.
func (p *Process) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.raw.String()
}

// Lines are those up to now.
func (p *Process) Lines() []Line {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.lines)
}

// Find waits for a line that fits, from the start of the log on.
func (p *Process) Find(what string, fits func(Line) bool) Line {
	p.t.Helper()
	l, _ := p.find(what, 0, fits)
	return l
}

// Next waits for a line whose message contains a text, behind the one that the
// last call found.
func (p *Process) Next(text string) Line {
	p.t.Helper()
	l, at := p.find(fmt.Sprintf("that says %q", text), p.next, func(l Line) bool { return strings.Contains(l.Text("msg"), text) })
	p.next = at + 1
	return l
}

func (p *Process) find(what string, from int, fits func(Line) bool) (l Line, at int) {
	p.t.Helper()
	deadline, ended := time.After(Patience), false
	for at = from; ; {
		p.mu.Lock()
		lines, more := p.lines[at:], p.more
		p.mu.Unlock()
		for _, l := range lines {
			if fits(l) {
				return l, at
			}
			at++
		}
		if ended {
			p.t.Fatalf("the program ended (%v) without a line %s:\n%s", p.err, what, p.Log())
		}
		select {
		case <-more:
		case <-p.Exited:
			ended = true // its last lines may have come meanwhile
		case <-deadline:
			p.t.Fatalf("no line %s:\n%s", what, p.Log())
		}
	}
}

// Signal sends it one.
func (p *Process) Signal(s os.Signal) {
	p.t.Helper()
	if err := p.Cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// ExitCode waits for its end.
func (p *Process) ExitCode() int {
	p.t.Helper()
	select {
	case <-p.Exited:
	case <-time.After(Patience):
		p.t.Fatal("the program does not end")
	}
	if exit, ok := errors.AsType[*exec.ExitError](p.err); ok {
		return exit.ExitCode()
	}
	return 0
}

// Get asks the admin endpoint.
func (p *Process) Get(path string) (status int, body string) {
	p.t.Helper()
	resp, err := http.Get("http://" + p.Admin + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}
