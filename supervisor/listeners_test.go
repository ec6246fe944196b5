package supervisor

import (
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"

	"cleversocks/e2e/need"
	"cleversocks/metrics"
	"cleversocks/supervisor/config"
)

// refuser is a handler that serves nobody, and tells who came.
type refuser chan struct{}

func (r refuser) Admit(net.Conn, string) string {
	r <- struct{}{}
	return metrics.RefusedLimit
}

func (r refuser) TurnedAway(net.Conn, string, string) {}

// testListeners is listeners in a tree that runs.
func testListeners(t *testing.T) *listeners {
	t.Helper()
	m := metrics.New()
	log := slog.New(slog.DiscardHandler)
	tree := newTree(log, m)
	ended := tree.root.ServeBackground(t.Context())
	t.Cleanup(func() { <-ended })
	ls := &listeners{log: log, metrics: m, tree: tree, handler: make(refuser, 1), health: new(listenerHealth)}
	t.Cleanup(ls.closeAll)
	return ls
}

func listenOn(addresses ...string) *config.Config {
	cfg := &config.Config{}
	for _, a := range addresses {
		cfg.Listeners = append(cfg.Listeners, config.Listener{Address: config.ListenAddress{AddrPort: netip.MustParseAddrPort(a)}, ReusePort: 1})
	}
	return cfg
}

// commit is what a reload does to the listeners.
func commit(t *testing.T, c *socketChange) {
	t.Helper()
	c.Commit(t.Context())
	c.serve(t.Context())
}

// freeAddress is one that no connection takes by chance: its port is below those that
// the kernel gives out.
func freeAddress(t *testing.T) (address, port string) {
	t.Helper()
	address = need.Free(t).String()
	_, port, _ = net.SplitHostPort(address)
	return address, port
}

// TestLostListenerComesBack: a reload had to close a listener and failed;
// meanwhile another program took the address. The closed listener stayed in
// the list, was taken as unchanged by every reload that followed, and the
// daemon called itself ready.
func TestLostListenerComesBack(t *testing.T) {
	ls := testListeners(t)
	at, port := freeAddress(t)
	c, err := ls.prepare(t.Context(), listenOn(at))
	if err != nil {
		t.Fatal(err)
	}
	commit(t, c)

	moved, err := ls.prepare(t.Context(), listenOn("0.0.0.0:"+port))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range moved.next {
		r.Close() // the new one gives way to the other program
	}
	other, err := net.Listen("tcp4", at)
	if err != nil {
		t.Fatal(err)
	}
	if err := moved.giveBack(t.Context()); err == nil {
		t.Fatal("both have the address")
	}
	if ls.health.ready() == nil {
		t.Error("ready without its listener")
	}

	other.Close()
	again, err := ls.prepare(t.Context(), listenOn(at))
	if err != nil {
		t.Fatal(err)
	}
	commit(t, again)
	if err := ls.health.ready(); err != nil {
		t.Error(err)
	}
	if client, err := net.Dial("tcp", at); err == nil { // it may be reset already
		client.Close()
	}
	<-ls.handler.(refuser)
}

// TestUncontestedFirst: a listener that worked was closed for its successor,
// before it turned out that another address could not be had at all.
func TestUncontestedFirst(t *testing.T) {
	ls := testListeners(t)
	at, port := freeAddress(t)
	c, err := ls.prepare(t.Context(), listenOn(at))
	if err != nil {
		t.Fatal(err)
	}
	commit(t, c)
	if _, err := ls.prepare(t.Context(), listenOn("0.0.0.0:"+port, "203.0.113.77:1")); err == nil {
		t.Fatal("that address is nobody's here")
	}
	for _, r := range ls.open {
		if r.Listener != c.next[listenerKey{address: at}].Listener {
			t.Error("the listener was closed and opened again")
		}
	}
}

// TestOwnListenerInTheWay: "another program listens there" was said of the
// daemon itself.
func TestOwnListenerInTheWay(t *testing.T) {
	ls := testListeners(t)
	at, port := freeAddress(t)
	_, err := ls.prepare(t.Context(), listenOn("0.0.0.0:"+port, at))
	// Either is in the way of the other, as it comes: a connection of another program
	// may have the port for a moment when the first is opened.
	if err == nil || !strings.Contains(err.Error(), "by this daemon's own listener ") || !strings.Contains(err.Error(), ".0:"+port) || strings.Contains(err.Error(), "another program") {
		t.Errorf("got %v", err)
	}
}
