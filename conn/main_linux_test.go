package conn

import (
	"context"
	"net"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"cleversocks/conn/adopt"
	"cleversocks/conn/netaddr"
	"cleversocks/conn/relay"
)

// driversTested are what serves the connections of tests: each test runs once with
// tasks alone and once with reactors, and cannot tell the difference.
var driversTested = []string{"tasks", "reactors"}

// driverTested is the one of now.
var driverTested string

func TestMain(m *testing.M) {
	if chosen := os.Getenv("CONN_DRIVER"); chosen != "" {
		driversTested = []string{chosen}
	}
	code := 0
	for _, driverTested = range driversTested {
		if code = m.Run(); code != 0 {
			println("the tests have failed with " + driverTested)
			break
		}
	}
	os.Exit(code)
}

// onTestReactors has what a test admits served on reactors, if it is their turn.
func (g *Group) onTestReactors(tb testing.TB) {
	tb.Helper()
	if driverTested != "reactors" {
		return
	}
	policy := *g.Policy()
	policy.Relay.Pools = testPools(tb)
	g.SetPolicy(&policy)
	g.instead = g.admitOnReactor
}

// testPools are pools whose reactors run until the end of a test.
func testPools(tb testing.TB) *relay.Pools {
	tb.Helper()
	pools := relay.NewPools(relay.PoolOptions{Reactors: 2})
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	for _, r := range pools.Reactors() {
		served.Go(func() { _ = r.Serve(ctx) })
	}
	tb.Cleanup(func() {
		cancel()
		served.Wait()
		pools.Close()
	})
	return pools
}

// admitOnReactor is Admit for a connection as a reactor would have accepted it.
func (g *Group) admitOnReactor(c net.Conn, listener string) (refused string, done bool) {
	tcp, ok := c.(*net.TCPConn)
	policy := g.Policy()
	if !ok || policy == nil {
		return "", false
	}
	lanes, ok := g.lanesOf(policy, listener)
	if !ok {
		return "", false
	}
	fd, err := adopt.DuplicateOf(tcp)
	if err != nil {
		return "", false
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)
	lane := g.nextOf(lanes)
	if refused = lane.admit(fd, netaddr.Of(c.RemoteAddr()), listener, policy); refused != "" {
		_ = unix.Close(fd)
		return refused, true
	}
	_ = c.Close()
	return "", true
}
