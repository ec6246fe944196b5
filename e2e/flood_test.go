package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cleversocks/e2e/need"
)

// What the flood is made of, all from different addresses.
const (
	floodGuessers = 60  // wrong passwords, one after the other: a new user waits for a hash of each
	floodSilent   = 200 // connections that say nothing
	floodHalf     = 200 // handshakes that stop in the middle
	floodSamples  = 100
)

// A flood of wrong passwords, silence and half handshakes delays neither the
// users who have authenticated nor the accept path, and an innocent who logs
// in for the first time gets a turn among the guessers. Latencies are logged;
// what is asserted is that every innocent is served.
func TestFlood(t *testing.T) {
	plain := need.Plain(t)
	echo := echoServer(t, "127.0.0.1:0")
	users := "alice:" + hash(t, "right") + "\nbob:" + hash(t, "right") + "\n"
	settings := writeFile(t, "c.toml", `
[[listener]]
address = "127.0.0.1:0"
[admin]
address = "127.0.0.1:0"
[auth]
users_file = "`+writeFile(t, "users", users)+`"
[limits]
auth_failures = { max = 0 } # bans would end the flood
[log]
access = "off"
`)
	d := startCommand(t, exec.Command(plain, "--config", settings, "--log-format", "json"))
	sampleLogin(t, d.address, echo) // the first costs a hash
	before, acceptBefore := measure(t, func() { sampleLogin(t, d.address, echo) }), measure(t, func() { sampleAccept(t, d.address) })

	ctx, cancel := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	var guesses atomic.Int64
	defer flood.Wait()
	defer cancel()
	for n := range floodGuessers {
		flood.Go(func() { guess(ctx, d.address, floodSource(1, n), &guesses) })
	}
	for n := range floodSilent {
		flood.Go(func() { hold(ctx, d.address, floodSource(2, n), nil) })
	}
	for n := range floodHalf {
		flood.Go(func() { hold(ctx, d.address, floodSource(3, n), []byte{5, 1, 2, 1, 200, 'x'}) })
	}
	eventually(t, "the flood is there", func() bool {
		return d.metric("cleversocks_auth_waiting") > "1" && guesses.Load() > 5
	})
	during, acceptDuring := measure(t, func() { sampleLogin(t, d.address, echo) }), measure(t, func() { sampleAccept(t, d.address) })
	began := time.Now()
	c := login(t, d.address, "127.0.0.4", "bob", "right")
	if code := request(t, c, 1, echo); code != 0 {
		t.Errorf("bob: reply %d", code)
	}
	first := time.Since(began)
	t.Logf("authenticated user: before %s, during %s", before, during)
	t.Logf("accept to method:   before %s, during %s", acceptBefore, acceptDuring)
	t.Logf("first log-in of a user, one among %d guessing sources: %v; %d wrong passwords so far; %s waiting, %s hashes",
		floodGuessers, first.Round(time.Millisecond), guesses.Load(), d.metric("cleversocks_auth_waiting"), d.metric("cleversocks_auth_hashes_total"))
	if got := d.settles("cleversocks_auth_busy_total", "0"); got != "0" {
		t.Logf("%s turned away as busy", got)
	}
}

func floodSource(kind, n int) string { return fmt.Sprintf("127.%d.%d.%d", kind, n/200, n%200+1) }

// sampleLogin is a user's whole way to the first echoed byte.
func sampleLogin(t *testing.T, proxy string, echo netip.AddrPort) {
	t.Helper()
	c := login(t, proxy, "127.0.0.3", "alice", "right")
	defer c.Close()
	if code := request(t, c, 1, echo); code != 0 {
		t.Fatalf("reply %d", code)
	}
	echoes(t, c, "x")
}

// sampleAccept is the way to the choice of a method.
func sampleAccept(t *testing.T, proxy string) {
	t.Helper()
	c := dialProxyFrom(t, proxy, "127.0.0.5")
	defer c.Close()
	send(t, c, 5, 1, 2)
	receive(t, c, 2)
}

// latency is what an innocent client waits.
type latency struct{ p50, p99 time.Duration }

func (l latency) String() string { return fmt.Sprintf("p50 %v p99 %v", l.p50, l.p99) }

func measure(t *testing.T, once func()) latency {
	t.Helper()
	took := make([]time.Duration, floodSamples)
	for i := range took {
		began := time.Now()
		once()
		took[i] = time.Since(began).Round(10 * time.Microsecond)
	}
	slices.Sort(took)
	return latency{took[len(took)/2], took[len(took)*99/100]}
}

// guess tries wrong passwords until ctx ends.
func guess(ctx context.Context, proxy, source string, done *atomic.Int64) {
	for ctx.Err() == nil {
		hold(ctx, proxy, source, []byte("\x05\x01\x02\x01\x05alice\x05wrong"))
		done.Add(1)
	}
}

// hold says something and stays until the proxy closes or ctx ends.
func hold(ctx context.Context, proxy, source string, say []byte) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	c, err := dialer.DialContext(ctx, "tcp", proxy)
	if err != nil {
		return
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if _, err := c.Write(say); err == nil {
		_, _ = io.Copy(io.Discard, c)
	}
}
