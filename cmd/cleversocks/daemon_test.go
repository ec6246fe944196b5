package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"cleversocks/e2e/need"
	"cleversocks/e2e/process"
)

// patience bounds every wait.
const patience = process.Patience

// running is the daemon on loopback.
type running struct {
	*process.Process
	t *testing.T
}

// launch starts the daemon on free ports.
func launch(t *testing.T, args ...string) *running {
	t.Helper()
	p := prepare(t, args...)
	p.AwaitReady()
	return p
}

// prepare starts the daemon, and does not wait until it is ready.
func prepare(t *testing.T, args ...string) *running {
	t.Helper()
	cmd := exec.Command("cleversocks", append([]string{"--admin", "127.0.0.1:0", "--log-format", "json", "--log-level", "debug"}, args...)...)
	cmd.Env = append(os.Environ(), "GORACE="+promptExit)
	return &running{process.Start(t, cmd), t}
}

// eventually asks the admin endpoint until a page has the pattern.
func (p *running) eventually(path, pattern string) {
	p.t.Helper()
	want := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if _, page := p.Get(path); want.MatchString(page) {
			return
		}
		pause := time.NewTimer(10 * time.Millisecond)
		<-pause.C
	}
	p.t.Fatalf("%s never has %q", path, pattern)
}

// tunnel opens a CONNECT through the daemon to something that listens and
// never speaks.
func (p *running) tunnel() *net.TCPConn {
	p.t.Helper()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { silent.Close() })
	c, err := net.Dial("tcp", p.Address)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	at := silent.Addr().(*net.TCPAddr).AddrPort()
	ip := at.Addr().As4()
	request := append([]byte{5, 1, 0, 5, 1, 0, 1}, append(ip[:], byte(at.Port()>>8), byte(at.Port()))...)
	if _, err := c.Write(request); err != nil {
		p.t.Fatal(err)
	}
	answer := make([]byte, 12)
	if _, err := io.ReadFull(c, answer); err != nil || answer[3] != 0 {
		p.t.Fatalf("no tunnel: % x, %v", answer, err)
	}
	return c.(*net.TCPConn)
}

// TestLogReaderLeaves: Go raises SIGPIPE for a write to standard error that
// nobody reads any more, so the end of a log pipeline was the end of the
// proxy. Its lines are lost and counted.
func TestLogReaderLeaves(t *testing.T) {
	p := launch(t, "-p", "0")
	p.HangUp()
	c := p.tunnel()
	_ = c.SetLinger(0)
	c.Close() // the reset ends the tunnel, which leaves a record
	p.eventually("/metrics", `(?m)^cleversocks_log_lines_lost_total [1-9]`)
	p.tunnel()
	p.Signal(syscall.SIGKILL)
}

// TestCongestionThatCannotWork: a reload took a name that the kernel does not
// have, warned, and every dial failed from then on.
func TestCongestionThatCannotWork(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.toml")
	write := func(name string) {
		t.Helper()
		if err := os.WriteFile(path, []byte("[relay]\ncongestion = '"+name+"'\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("nonsense")
	p := prepare(t, "-p", "0", "--config", path)
	p.Next("relay.congestion")
	if code := p.ExitCode(); code != exitInvalid {
		t.Errorf("exit status %d", code)
	}
	write("")
	p = launch(t, "-p", "0", "--config", path)
	write("nonsense")
	p.Signal(syscall.SIGHUP)
	if failed := p.Next("reload failed"); !strings.Contains(fmt.Sprint(failed["err"]), "relay.congestion") {
		t.Errorf("the error does not name the key: %v", failed)
	}
	p.tunnel()
}

// TestOneStopSignalTwice: timeout(1) signals its child and then its group, and
// the second of them was taken for an operator's second thought: no drain.
func TestOneStopSignalTwice(t *testing.T) {
	p := launch(t, "-p", "0")
	c := p.tunnel()
	p.Signal(syscall.SIGTERM)
	p.Signal(syscall.SIGINT)
	p.Next("taken for the same stop signal")
	p.Signal(syscall.SIGHUP)
	p.Next("draining: the log was reopened") // and not dropped without a line
	_ = c.SetLinger(0)
	c.Close()
	if code := p.ExitCode(); code != exitDrained {
		t.Errorf("exit status %d", code)
	}
}

// TestSignalDuringStart: it was noticed when the start had ended, which a
// name or a pipe can delay for ever.
func TestSignalDuringStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	p := prepare(t, "-p", "0", "--config", path)
	write, err := os.OpenFile(path, os.O_WRONLY, 0) // returns once the daemon reads
	if err != nil {
		t.Fatal(err)
	}
	defer write.Close()
	p.Signal(syscall.SIGTERM)
	p.Next("while it was starting")
	if code := p.ExitCode(); code != exitFailed {
		t.Errorf("exit status %d", code)
	}
}

// TestReloadOverlapsStop: the reload opened a listener behind the back of the
// shutdown, which accepted nothing and refused nothing for as long as the
// drain took.
func TestReloadOverlapsStop(t *testing.T) {
	added := need.Free(t).String()
	path := filepath.Join(t.TempDir(), "c.toml")
	text := "[[listener]]\naddress = '127.0.0.1:0'\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := launch(t, "--config", path)
	c := p.tunnel()
	if err := os.WriteFile(path, []byte(text+"[[listener]]\naddress = '"+added+"'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.Signal(syscall.SIGHUP)
	p.Signal(syscall.SIGTERM)
	p.Next("draining")
	if late, err := net.Dial("tcp", added); err == nil {
		late.Close()
		t.Error("the new listener is open while the daemon drains")
	}
	_ = c.SetLinger(0)
	c.Close()
	if code := p.ExitCode(); code != exitDrained {
		t.Errorf("exit status %d", code)
	}
}

// TestMetricsFromTheStart: what counts rare trouble appeared with the first
// of it, which rate() then does not see.
func TestMetricsFromTheStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.toml")
	text := "[[upstream]]\nname = 'far'\nvia = ['socks5://127.0.0.1:1']\n[[forward]]\nupstream = 'far'\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := launch(t, "-p", "0", "--config", path)
	_, page := p.Get("/metrics")
	for _, series := range []string{
		`cleversocks_service_restarts_total{service="reloader"} 0`,
		`cleversocks_service_restarts_total{service="listener ` + p.Address + `"} 0`,
		`cleversocks_upstream_up{upstream="far",`,
		`cleversocks_upstream_failures_total{upstream="far",`,
	} {
		if !strings.Contains(page, series) {
			t.Errorf("no %s", series)
		}
	}
}

// TestWarningsAboutAddresses: the warning of the open door named port 0, and
// a source address that no interface has was accepted without a word.
func TestWarningsAboutAddresses(t *testing.T) {
	p := launch(t, "-i", "0.0.0.0", "-p", "0", "-b", "203.0.113.77", "-b", "127.0.0.9")
	p.Signal(syscall.SIGHUP)
	var warnings []string
	for range 2 { // of the reload; those of the start were read by launch
		warnings = append(warnings, fmt.Sprint(p.Next("configuration")["warning"]))
	}
	all := strings.Join(warnings, "\n")
	if !strings.Contains(all, "no authentication on "+p.Address) || !strings.Contains(all, "source address 203.0.113.77") {
		t.Error(all)
	}
}

// TestAdminBehindOwnListener: a listener on all addresses has the port of an
// admin endpoint on one of them.
func TestAdminBehindOwnListener(t *testing.T) {
	admin := need.Free(t).String()
	_, port, _ := net.SplitHostPort(admin)
	p := prepare(t, "-i", "0.0.0.0", "-p", port, "--admin", admin)
	p.Next("listener[0].address, 0.0.0.0:" + port + ", have the port twice")
	if code := p.ExitCode(); code != exitInvalid {
		t.Errorf("exit status %d", code)
	}
}
