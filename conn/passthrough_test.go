package conn

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cleversocks/bind"
	"cleversocks/conn/relay"
	"cleversocks/udprelay"
)

// opaque is a client's connection of which nothing is known but that it is a
// net.Conn. It counts what is read from it and written to it.
type opaque struct {
	net.Conn
	moved *atomic.Int64
}

func (c opaque) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.moved.Add(int64(n))
	return n, err
}

func (c opaque) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.moved.Add(int64(n))
	return n, err
}

// seeThrough tells what is below it, as crypto/tls does.
type seeThrough struct{ opaque }

func (c seeThrough) NetConn() net.Conn { return c.Conn }
func (c seeThrough) CloseWrite() error { return c.Conn.(halfCloser).CloseWrite() }

// addsNothing is no longer needed once the relay begins.
type addsNothing struct{ seeThrough }

func (c addsNothing) PassThrough() net.Conn { return c.Conn }

// wrappers are the doors of these tests.
var wrappers = map[string]func(net.Conn, *atomic.Int64) net.Conn{
	"opaque":       func(c net.Conn, n *atomic.Int64) net.Conn { return opaque{c, n} },
	"see-through":  func(c net.Conn, n *atomic.Int64) net.Conn { return seeThrough{opaque{c, n}} },
	"adds nothing": func(c net.Conn, n *atomic.Int64) net.Conn { return addsNothing{seeThrough{opaque{c, n}}} },
	"adds nothing, twice": func(c net.Conn, n *atomic.Int64) net.Conn {
		return addsNothing{seeThrough{opaque{addsNothing{seeThrough{opaque{c, n}}}, n}}}
	},
}

// wrapped is a group behind a door that wraps each client.
func wrapped(t *testing.T, wrap func(net.Conn, *atomic.Int64) net.Conn, options relay.Options) (*Group, *atomic.Int64) {
	t.Helper()
	g, m := newTestGroup(t, true)
	g.handler.watch.after = patience // clients that shut their side down at once have not left
	moved := new(atomic.Int64)
	policy := *g.Policy()
	policy.Relay = options
	policy.UDP = udprelay.New(udprelay.RelayOptions{Metrics: m, Logger: g.log})
	policy.Bind = bind.New(bind.ServerOptions{Metrics: m})
	policy.UDP.Configure(udprelay.RelayOptions{IdleTimeout: patience, MaxAssociations: 10})
	policy.Bind.Configure(bind.ServerOptions{AcceptTimeout: patience, AnyPeer: true})
	policy.Listeners = map[string]Listener{"test": {Protocols: Spoken(), Door: []Step{func(_ context.Context, e *Entrance) error {
		e.Conn = wrap(e.Conn, moved)
		return nil
	}}}}
	g.SetPolicy(&policy)
	return g, moved
}

// A client whose connection is wrapped once lost what only the socket below
// could do: a half-close, a look whether it has left, splice. Each command of
// each protocol works behind any wrapper, the whole of its bytes and both ends of
// its streams.
func TestEachCommandBehindAWrapper(t *testing.T) {
	to := sinkServer(t)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "got:%s", got)
	}))
	t.Cleanup(web.Close)
	for name, wrap := range wrappers {
		t.Run(name, func(t *testing.T) {
			g, moved := wrapped(t, wrap, relay.Options{})
			for protocol, session := range sessions(to) {
				t.Run("CONNECT by "+protocol, func(t *testing.T) {
					payload := bytes.Repeat([]byte("payload "), 30_000)
					if err := sameAnswer(session[1], payload, talk(t, g, append([]byte(session[0]), payload...))); err != nil {
						t.Error(err)
					}
				})
			}
			t.Run("plain HTTP", func(t *testing.T) { plainRequests(t, g, web.Listener.Addr().String()) })
			t.Run("BIND by SOCKS5", func(t *testing.T) { bindThrough(t, g, []byte{5, 1, 0, 5, 2, 0, 1, 127, 0, 0, 1, 0, 9}, 2, 10) })
			t.Run("BIND by SOCKS4", func(t *testing.T) { bindThrough(t, g, []byte{4, 2, 0, 9, 127, 0, 0, 1, 0}, 0, 8) })
			t.Run("UDP ASSOCIATE", func(t *testing.T) { datagramsThrough(t, g) })
			if moved.Load() == 0 {
				t.Error("the door was never passed")
			}
			awaitIdle(t, g) // each association and tunnel ends with its client
		})
	}
}

// plainRequests sends two requests over one connection. The client does not shut
// its socket down behind them: a wrapper has words of its own for a half-close, so
// that is taken for its leaving where an answer takes long, on a busy machine.
func plainRequests(t *testing.T, g *Group, host string) {
	t.Helper()
	request := func(body, connection string) string {
		return fmt.Sprintf("POST http://%s/ HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n%s", host, host, len(body), connection, body)
	}
	client := admit(t, g)
	if _, err := io.WriteString(client, request("one", "keep-alive")+request("two", "close")); err != nil {
		t.Fatal(err)
	}
	answers, err := io.ReadAll(client)
	if err != nil {
		t.Fatal(err)
	}
	got := string(answers)
	if strings.Count(got, "200 OK") != 2 || !strings.Contains(got, "got:one") || !strings.Contains(got, "got:two") {
		t.Errorf("%q", got)
	}
}

// bindThrough asks for a port, connects to it, and sends both ways. skipped
// bytes come before the first of two replies.
func bindThrough(t *testing.T, g *Group, request []byte, skipped, length int) {
	t.Helper()
	client := admit(t, g).(*net.TCPConn)
	if _, err := client.Write(request); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, skipped+length)
	if _, err := io.ReadFull(client, reply); err != nil {
		t.Fatalf("reply % x, %v", reply, err)
	}
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)
	if first := reply[skipped:]; length == 8 {
		at = netip.AddrPortFrom(at.Addr(), uint16(first[2])<<8|uint16(first[3]))
	} else {
		at = netip.AddrPortFrom(at.Addr(), uint16(first[8])<<8|uint16(first[9]))
	}
	peer, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(at))
	if err != nil {
		t.Fatalf("%v after % x", err, reply)
	}
	defer peer.Close()
	if _, err := io.ReadFull(client, reply[:length]); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Write([]byte("to the peer")); err != nil {
		t.Fatal(err)
	}
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_ = peer.SetDeadline(time.Now().Add(patience))
	if got, err := io.ReadAll(peer); err != nil || string(got) != "to the peer" {
		t.Errorf("the peer read %q, %v", got, err)
	}
	if _, err := peer.Write([]byte("to the client")); err != nil {
		t.Fatal(err)
	}
	if err := peer.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(client); err != nil || string(got) != "to the client" {
		t.Errorf("the client read %q, %v", got, err)
	}
}

// echoDatagrams sends datagrams back, and gives the head that leads there (RFC 1928
// section 7).
func echoDatagrams(t *testing.T) (head []byte) {
	t.Helper()
	echo, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { echo.Close() })
	go func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := echo.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = echo.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	port := echo.LocalAddr().(*net.UDPAddr).Port
	return slices.Clip([]byte{0, 0, 0, 1, 127, 0, 0, 1, byte(port >> 8), byte(port)})
}

// datagramsThrough has one datagram go to an echo and come back, and ends the
// association by its control connection.
func datagramsThrough(t *testing.T, g *Group) {
	t.Helper()
	echo := echoDatagrams(t)
	client := admit(t, g)
	if _, err := client.Write([]byte{5, 1, 0}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(client, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	at := ask(t, client, 3, netip.MustParseAddrPort("0.0.0.0:0"))
	udp, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	datagram := append(echo, "hello"...)
	if _, err := udp.Write(datagram); err != nil {
		t.Fatal(err)
	}
	_ = udp.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, 100)
	if n, err := udp.Read(got); err != nil || !bytes.Equal(got[:n], datagram) {
		t.Errorf("% x, %v", got[:n], err)
	}
	client.Close()
}

// A wrapper that adds nothing any more costs a tunnel nothing: its bytes do not
// pass through it, and they are spliced as between two bare sockets. Through one
// that might still change them, all of them pass.
func TestSpliceBehindAWrapper(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux splices")
	}
	const size = 16 << 20
	for name, wrap := range wrappers {
		t.Run(name, func(t *testing.T) {
			bare := strings.HasPrefix(name, "adds nothing")
			// Without any pipes, each wish for one is told.
			var wished atomic.Int64
			pools := relay.NewPools(relay.PoolOptions{Pipes: -1, Reactors: -1, Full: func() { wished.Add(1) }})
			g, moved := wrapped(t, wrap, relay.Options{Pools: pools})
			from := sourceServer(t, size)
			client, server := pair(t, listen(t))
			defer client.Close()
			if reason := g.Admit(server, "test"); reason != "" {
				t.Fatal(reason)
			}
			if _, err := client.Write(append([]byte{5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1}, byte(from.Port()>>8), byte(from.Port()))); err != nil {
				t.Fatal(err)
			}
			if n, err := io.CopyN(io.Discard, client, 12+size); err != nil {
				t.Errorf("%d bytes came, %v", n, err)
			}
			if got := speakOver(t, client, ""); len(got) > 0 {
				t.Errorf("%d bytes too many", len(got))
			}
			if spliced := wished.Load() > 0; spliced != bare {
				t.Errorf("splices: %v", spliced)
			}
			if n := moved.Load(); bare && n > 1000 || !bare && n < size {
				t.Errorf("%d bytes passed through the wrapper", n)
			}
		})
	}
}

// sourceServer sends so many bytes to each connection, and closes it.
func sourceServer(t *testing.T, size int) netip.AddrPort {
	t.Helper()
	l := listen(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write(make([]byte, size))
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().(*net.TCPAddr).AddrPort()
}
