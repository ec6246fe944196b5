package e2e

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// trouble is a store of its own, and a replica that uses it.
type trouble struct {
	t       *testing.T
	store   *store
	replica *replica
	echo    netip.AddrPort
	open    int
}

// degraded waits until the replica says so, or says that all is well. It is ready
// all the time.
func (x *trouble) degraded(want bool) {
	x.t.Helper()
	eventually(x.t, fmt.Sprint("degraded: ", want), func() bool {
		status, body := x.replica.get("/readyz")
		if status != 200 {
			x.t.Errorf("not ready: %s", body)
		}
		return strings.Contains(body, "shared state") == want
	})
}

// toldOnce waits until a trouble is known that a store has which answers, and counts
// how often it was told: a probe found it well, the next call did not, and so on.
func (x *trouble) toldOnce() {
	x.t.Helper()
	x.degraded(true)
	for range 2 {
		before := x.replica.metric(`cleversocks_shared_calls_total{call="fleet",outcome="down"}`)
		eventually(x.t, "a beat is left out", func() bool {
			return x.replica.metric(`cleversocks_shared_calls_total{call="fleet",outcome="down"}`) != before
		})
	}
	x.comes()
	if n := x.replica.metric("cleversocks_shared_outages_total"); n != "1" {
		x.t.Errorf("%s outages", n)
	}
	if n := strings.Count(x.replica.log(), "the shared state does not answer"); n != 1 {
		x.t.Errorf("%d lines:\n%s", n, x.replica.log())
	}
}

// comes has one more of alice's connections, who may have ten: from the sixth on
// the store is asked.
func (x *trouble) comes() {
	x.t.Helper()
	mustTunnel(x.t, x.replica.daemon, "127.0.0.1", "alice", x.echo)
	x.open++
}

// right waits until a store has the sum.
func (x *trouble) right(s *store) {
	x.t.Helper()
	eventually(x.t, fmt.Sprintf("the store has %d connections", x.open), func() bool { return s.sum("alice") == x.open })
}

// switchboard is an address that leads to another one, which may change: a name
// or a service in front of a store that fails over. Connections that are there stay.
type switchboard struct {
	address string
	to      atomic.Pointer[string]
}

func newSwitchboard(t *testing.T, to string) *switchboard {
	t.Helper()
	s := new(switchboard)
	s.to.Store(&to)
	s.address = tcpServer(t, "127.0.0.1:0", func(c *net.TCPConn) {
		far, err := net.Dial("tcp", *s.to.Load())
		if err != nil {
			return
		}
		defer far.Close()
		go func() { _, _ = io.Copy(far, c); far.Close() }()
		_, _ = io.Copy(c, far)
	}).String()
	return s
}

// What stores in trouble answer, and rate limiters are known to stumble over: for
// each kind nobody is refused, the replica says that it is degraded, and all is well,
// with the right sum, as soon as the store is.
func TestFleetStoreTroubles(t *testing.T) {
	t.Parallel()
	echo := echoServer(t, "127.0.0.1:0")
	for name, happens := range map[string]func(x *trouble){
		"a failover makes it a replica": func(x *trouble) { // READONLY
			x.store.must("REPLICAOF 127.0.0.1 1")
			x.degraded(true)
			x.comes()
			x.store.must("REPLICAOF NO ONE")
		},
		"out of memory": func(x *trouble) { // OOM
			x.store.must("CONFIG SET maxmemory 1")
			x.degraded(true)
			x.comes()
			x.store.must("CONFIG SET maxmemory 0")
		},
		"disk full": func(x *trouble) { // MISCONF
			x.store.must("CONFIG SET save \"3600 1\"")
			if err := os.MkdirAll(filepath.Join(x.store.dir, "dump.rdb", "x"), 0o700); err != nil {
				x.t.Fatal(err)
			}
			x.store.must("BGSAVE")
			x.degraded(true)
			x.comes()
			x.store.must("CONFIG SET stop-writes-on-bgsave-error no")
		},
		"scripts are forgotten": func(x *trouble) { // NOSCRIPT
			x.store.must("SCRIPT FLUSH")
			x.comes()
			if n := x.replica.metric(`cleversocks_shared_calls_total{call="enter",outcome="error"}`); n != "0" {
				x.t.Errorf("%s errors", n)
			}
		},
		"it loads its data": func(x *trouble) { // LOADING
			for i := range 300 {
				x.store.must(fmt.Sprintf("SET filler%d x", i))
			}
			x.store.must("SAVE")
			x.store.kill()
			x.store.args = []string{"--key-load-delay", "5000"}
			x.store.start()
			x.comes()
		},
		"writes are paused": func(x *trouble) {
			x.store.must("CLIENT PAUSE 60000 WRITE")
			x.comes()
			x.degraded(true)
			x.store.must("CLIENT UNPAUSE")
		},
		"another program has its key": func(x *trouble) { // WRONGTYPE
			x.store.must("SET cs:events x")
			x.toldOnce()
			x.store.must("DEL cs:events")
		},
		"it may not run scripts": func(x *trouble) { // NOPERM
			x.store.must("ACL SETUSER default -@scripting")
			x.toldOnce()
			x.store.must("ACL SETUSER default +@all")
		},
		"connections are cut": func(x *trouble) {
			x.store.must("CLIENT KILL TYPE normal SKIPME yes")
			x.comes()
		},
		"another password": func(x *trouble) {
			x.store.must("CONFIG SET requirepass next-word")
			x.store.pass = "next-word"
			rewrite(x.t, x.replica.password, "next-word\n")
			x.replica.signal(syscall.SIGHUP)
			x.replica.waitMessage("the shared state has taken the secrets of the reload")
			x.store.must("CLIENT KILL TYPE normal SKIPME yes")
			x.comes()
		},
		"a wrong password": func(x *trouble) {
			x.store.must("CONFIG SET requirepass next-word")
			x.store.pass = "next-word"
			rewrite(x.t, x.replica.password, "mistaken-word\n")
			x.replica.signal(syscall.SIGHUP)
			x.replica.waitMessage("the shared state does not take the secrets of the reload; the connection of before stays")
			x.right(x.store) // by the connection of before
			x.store.must("CLIENT KILL TYPE normal SKIPME yes")
			x.degraded(true)
			x.comes()
			rewrite(x.t, x.replica.password, "next-word\n")
			x.replica.signal(syscall.SIGHUP)
			if log := x.replica.log(); strings.Contains(log, "mistaken-word") || strings.Contains(log, "next-word") {
				x.t.Error("a password is in the log")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := &trouble{t: t, store: startStore(t, true), echo: echo}
			x.replica = startReplica(t, x.store.address, "a", fleetUsers, soon)
			x.degraded(false)
			for range 6 {
				x.comes()
			}
			x.right(x.store)
			happens(x)
			x.degraded(false)
			x.comes()
			x.right(x.store)
		})
	}
}

// A store fails over behind its name: the one of before is a replica now, takes no
// writes, and keeps its connections, which a client would use for ever.
func TestFleetStoreMoves(t *testing.T) {
	t.Parallel()
	x := &trouble{t: t, store: startStore(t, true), echo: echoServer(t, "127.0.0.1:0")}
	next := startStore(t, true)
	name := newSwitchboard(t, x.store.address)
	x.replica = startReplica(t, name.address, "a", fleetUsers, soon)
	x.degraded(false)
	for range 6 {
		x.comes()
	}
	x.right(x.store)
	_, port, _ := net.SplitHostPort(next.address)
	name.to.Store(&next.address)
	x.store.must("REPLICAOF 127.0.0.1 " + port)
	x.degraded(true)
	x.comes()
	x.degraded(false)
	x.right(next)
}
