//go:build linux

// Package guard holds the built program to what it takes: system calls of a
// connection, counted by strace(1), its size, and its memory at rest. Nothing is
// timed.
package guard

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cleversocks/e2e/need"
	"cleversocks/e2e/process"
)

// connections are counted in each case, one after the other.
const connections = 200

// tolerance is how much more than its baseline a count may be. Which calls
// find nothing, and are made again, depends on who runs first.
const tolerance = 1.08

// waiting are calls that depend on how the scheduler, Go's or the kernel's,
// happens to run: how often a thread sleeps, is woken, or is moved. They are
// held together, and loosely.
var waiting = map[string]bool{
	"futex": true, "nanosleep": true, "epoll_pwait": true, "epoll_wait": true, "sched_yield": true, "tgkill": true,
	"getpid": true, "rt_sigreturn": true, "rt_sigprocmask": true, "sigaltstack": true, "clone": true, "clone3": true,
	"mmap": true, "munmap": true, "madvise": true, "gettid": true, "set_robust_list": true, "rseq": true, "prctl": true,
	"restart_syscall": true, "timer_settime": true, "timer_create": true, "timer_delete": true,
}

// guarded are the ways to connect, with the numbers of calls as they are.
// Whoever makes one smaller writes the new number down.
var guarded = []struct {
	name  string
	open  func(c net.Conn, target *net.TCPAddr) error
	calls float64 // of sockets and descriptors, for a connection from accept to close
	waits float64 // of the rest
}{
	{name: "socks5", open: socks5(""), calls: 21, waits: 30},
	{name: "socks5 with password", open: socks5("alice"), calls: 23, waits: 34},
	{name: "http connect", open: httpConnect, calls: 19.1, waits: 30},
}

const config = `
[log]
format = "json"
level = "debug"
access = "off"
[auth]
required = false
allow_plain_passwords = true
[admin]
address = ""
[[listener]]
address = "127.0.0.1:0"
[[user]]
name = "alice"
password = "secret"
`

// A change that made a connection ask the kernel for more would pass every
// other test: none of them counts.
func TestGuardSystemCalls(t *testing.T) {
	strace := need.Program(t, "strace", "strace")
	dir := t.TempDir()
	binary := program(t, dir)
	settings, calls := filepath.Join(dir, "config"), filepath.Join(dir, "calls")
	if err := os.WriteFile(settings, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	// -D: the daemon is our child, and strace is on the side.
	p := process.Start(t, exec.Command(strace, "-D", "-f", "-ttt", "-o", calls, binary, "--config", settings))
	p.AwaitReady()
	target := serveEcho(t)
	windows := make([]window, len(guarded))
	for i, g := range guarded {
		use(t, p.Address, target, g.open) // the first one is remembered, and makes what is made once
		windows[i].from = time.Now()
		for range connections {
			use(t, p.Address, target, g.open)
		}
		windows[i].until = time.Now()
	}
	p.Signal(syscall.SIGTERM)
	p.ExitCode()
	count(t, calls, p.Cmd.Process.Pid, windows)
	for i, g := range guarded {
		windows[i].judge(t, g.name, g.calls, g.waits)
	}
}

// program builds it into dir. The flags are those of "task build", whose work
// is in Go's cache then.
func program(t *testing.T, dir string) string {
	t.Helper()
	binary := filepath.Join(dir, "cleversocks")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "cleversocks/cmd/cleversocks")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}

// window is the time of a case, and the calls in it.
type window struct {
	from, until time.Time
	counts      map[string]int
}

func (w window) judge(t *testing.T, name string, wantCalls, wantWaits float64) {
	t.Helper()
	calls, waits := 0, 0
	var list []string
	for _, call := range slices.Sorted(maps.Keys(w.counts)) {
		n := w.counts[call]
		list = append(list, fmt.Sprintf("%s %.2f", call, float64(n)/connections))
		if waiting[call] {
			waits += n
		} else {
			calls += n
		}
	}
	perCalls, perWaits := float64(calls)/connections, float64(waits)/connections
	t.Logf("%s: %.1f calls and %.1f waits a connection: %s", name, perCalls, perWaits, strings.Join(list, ", "))
	if perCalls == 0 || perCalls > wantCalls*tolerance {
		t.Errorf("%s: %.1f system calls a connection, want %.1f", name, perCalls, wantCalls)
	}
	if perWaits > 2*wantWaits {
		t.Errorf("%s: %.1f waits and wake-ups a connection, want %.1f", name, perWaits, wantWaits)
	}
}

// count reads strace's lines, once it has written the last one:
//
//	1234 1764412345.678901 read(5, "\5\1\0", 512) = 3
func count(t *testing.T, path string, pid int, windows []window) {
	t.Helper()
	deadline := time.Now().Add(process.Patience)
	var lines []byte
	for done := false; !done; {
		var err error
		if lines, err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(lines)) {
			fields := strings.Fields(line)
			done = done || len(fields) > 2 && fields[0] == strconv.Itoa(pid) && fields[2] == "+++"
		}
		if !done && time.Now().After(deadline) {
			t.Fatal("strace did not see the program's end")
		}
	}
	for i := range windows {
		windows[i].counts = make(map[string]int)
	}
	for line := range strings.Lines(string(lines)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[2] == "<..." { // the rest of a call that was counted
			continue
		}
		name, _, isCall := strings.Cut(fields[2], "(")
		seconds, err := strconv.ParseFloat(fields[1], 64)
		if !isCall || err != nil {
			continue
		}
		at := time.UnixMicro(int64(seconds * 1e6))
		for _, w := range windows {
			if at.After(w.from) && at.Before(w.until) {
				w.counts[name]++
			}
		}
	}
}

// use opens a connection, sends a byte there and back, and closes it. It returns
// when the daemon has closed it too.
func use(t *testing.T, proxy string, target *net.TCPAddr, open func(net.Conn, *net.TCPAddr) error) {
	t.Helper()
	c, err := net.Dial("tcp", proxy)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(process.Patience))
	if err := open(c, target); err != nil {
		t.Fatal(err)
	}
	if err := ask(c, "x", "x"); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}

func ask(c net.Conn, message, want string) error {
	if _, err := io.WriteString(c, message); err != nil {
		return err
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != want {
		return fmt.Errorf("%q, want %q", got, want)
	}
	return nil
}

// socks5 connects without a log-in, or with one (RFC 1928, RFC 1929).
func socks5(user string) func(net.Conn, *net.TCPAddr) error {
	return func(c net.Conn, target *net.TCPAddr) error {
		method := "\x00"
		if user != "" {
			method = "\x02"
		}
		if err := ask(c, "\x05\x01"+method, "\x05"+method); err != nil {
			return err
		}
		if user != "" {
			if err := ask(c, "\x01\x05alice\x06secret", "\x01\x00"); err != nil {
				return err
			}
		}
		request := "\x05\x01\x00\x01" + string(target.IP.To4()) + string([]byte{byte(target.Port >> 8), byte(target.Port)})
		if err := ask(c, request, "\x05\x00\x00\x01"); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 6))
		return err
	}
}

func httpConnect(c net.Conn, target *net.TCPAddr) error {
	if err := ask(c, fmt.Sprintf("CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target), "HTTP/1.1 200"); err != nil {
		return err
	}
	r := bufio.NewReaderSize(c, 16)
	for ended := ""; ended != "\r\n"; {
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		ended = line
	}
	return nil
}

// serveEcho sends back what each connection says, and closes it at its end.
func serveEcho(t *testing.T) *net.TCPAddr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr)
}
