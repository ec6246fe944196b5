package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
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

	pid  int   // of the one that serves
	pids []int // of all
	done int   // upgrades
}

// lineageOf follows a daemon over its upgrades, and ends all of them with the
// test.
func lineageOf(d *daemon) *lineage {
	l := &lineage{daemon: d, pid: d.Cmd.Process.Pid, pids: []int{d.Cmd.Process.Pid}}
	d.t.Cleanup(func() {
		for _, pid := range l.pids {
			if runs(pid) {
				_ = syscall.Kill(pid, syscall.SIGTERM)
			}
		}
	})
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
	l.pids = append(l.pids, pid)
	http.DefaultClient.CloseIdleConnections() // the predecessor closes them, and a POST is not sent again
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

// atOnce bounds a load: a machine that is slower than it is not to be choked.
const atOnce = 100

// startLoad begins a connection every interval, while there are not too many.
func startLoad(interval time.Duration, kinds ...func() error) *load {
	l := &load{stop: make(chan struct{})}
	places := make(chan struct{}, atOnce)
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
				select {
				case places <- struct{}{}:
				case <-l.stop:
					return
				}
				kind := kinds[n%len(kinds)]
				l.running.Go(func() { one(kind); <-places })
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
