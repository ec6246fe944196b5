package upstream

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"cleversocks/conn/wire"
)

func warmPool(t *testing.T, via string, size int) (*Router, *member) {
	t.Helper()
	r := compile(t, options(Upstream{Via: []string{via}, Warm: Warm{Size: size}}))
	return r, r.pools[0].members[0]
}

func (m *member) waitWarm(t *testing.T, n int64) {
	t.Helper()
	eventually(t, "warm connections", func() bool { return m.metrics.Warm.Load() == n })
}

func TestWarm(t *testing.T) {
	p := &proxy{user: "alice", password: "hunter2"}
	r, m := warmPool(t, "socks5://alice:hunter2@"+serve(t, p.socks5), 2)
	stop := run(t, r)
	m.waitWarm(t, 2)
	dest := addr(t, echo(t))
	for range 3 {
		conn, info, err := r.Route(Query{Dest: dest}).Dial(t.Context(), dest)
		if err != nil {
			t.Fatal(err)
		}
		if _, bare := conn.(*net.TCPConn); !bare || !info.Warm {
			t.Errorf("%T, warm %v", conn, info.Warm)
		}
		roundTrip(t, conn)
		_ = conn.Close()
		info.Release()
		m.waitWarm(t, 2) // refilled
	}
	stop()
	if n := m.metrics.Warm.Load(); n != 0 {
		t.Errorf("%d warm after the end", n)
	}
	conn, info, err := r.Route(Query{Dest: dest}).Dial(t.Context(), dest)
	if err != nil || info.Warm {
		t.Fatal(err, info.Warm)
	}
	_ = conn.Close()
	info.Release()
}

// TestWarmOverTLS: a session ticket that waits to be read makes nothing stale.
func TestWarmOverTLS(t *testing.T) {
	at, cfg := overTLS(t, (&proxy{}).http)
	o := options(Upstream{Via: []string{"https://" + at}, Warm: Warm{Size: 1}})
	o.TLS = cfg
	r := compile(t, o)
	m := r.pools[0].members[0]
	run(t, r)
	m.waitWarm(t, 1)
	dest := addr(t, echo(t))
	conn, info, err := r.Route(Query{Dest: dest}).Dial(t.Context(), dest)
	if err != nil || !info.Warm {
		t.Fatal(err, info.Warm)
	}
	defer func() { _ = conn.Close(); info.Release() }()
	roundTrip(t, conn)
}

// TestStaleIsNotHandedOut: warm connections that the peer closed, or on which
// it sent something, are replaced by a fresh one at the moment of use.
func TestStaleIsNotHandedOut(t *testing.T) {
	for name, spoil := range map[string]func(net.Conn){
		"closed": func(c net.Conn) { _ = c.Close() },
		"reset":  func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0); _ = c.Close() },
		"bytes":  func(c net.Conn) { _, _ = io.WriteString(c, "\x05\x00") },
	} {
		t.Run(name, func(t *testing.T) {
			p := &proxy{}
			var mu sync.Mutex
			var early []net.Conn
			r, m := warmPool(t, "socks5://"+serve(t, func(c net.Conn) {
				mu.Lock()
				early = append(early, c)
				mu.Unlock()
				p.socks5(c)
			}), 2)
			run(t, r)
			m.waitWarm(t, 2)
			mu.Lock()
			for _, c := range early {
				spoil(c)
			}
			mu.Unlock()
			eventually(t, "the news", func() bool {
				m.shelf.mu.Lock()
				defer m.shelf.mu.Unlock()
				for _, it := range m.shelf.items {
					if peek(it.p.raw) == peekNothing {
						return false
					}
				}
				return true
			})
			dest := addr(t, echo(t))
			conn, info, err := r.Route(Query{Dest: dest}).Dial(t.Context(), dest)
			if err != nil || info.Warm {
				t.Fatalf("%v, warm %v", err, info.Warm)
			}
			defer func() { _ = conn.Close(); info.Release() }()
			roundTrip(t, conn)
		})
	}
}

// TestWarmBreaksAtUse: a hop that drops a connection only once it is asked
// costs the client nothing.
func TestWarmBreaksAtUse(t *testing.T) {
	p := &proxy{}
	at := serve(t, p.socks5)
	r, m := warmPool(t, "socks5://"+at, 1)
	bad, err := net.Dial("tcp", serve(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) }))
	if err != nil {
		t.Fatal(err)
	}
	raw := bad.(*net.TCPConn)
	m.shelf.openUp()
	defer m.shelf.shutDown()
	m.shelf.put(&prepared{conn: raw, raw: raw})
	dest := addr(t, echo(t))
	conn, info, err := r.Route(Query{Dest: dest}).Dial(t.Context(), dest)
	if err != nil || info.Warm {
		t.Fatalf("%v, warm %v", err, info.Warm)
	}
	defer func() { _ = conn.Close(); info.Release() }()
	roundTrip(t, conn)
}

func TestShelfIsBounded(t *testing.T) {
	r, m := warmPool(t, "socks5://"+serve(t, (&proxy{}).socks5), 1)
	_ = r
	m.shelf.openUp()
	for range 3 {
		p, fail := m.fresh(t.Context(), Origin{})
		if fail != nil {
			t.Fatal(fail)
		}
		m.shelf.put(p)
	}
	if n := m.metrics.Warm.Load(); n != 1 {
		t.Errorf("%d on a shelf of one", n)
	}
	m.shelf.maxIdle = 0 // all are too old
	m.shelf.sweep()
	if n := m.metrics.Warm.Load(); n != 0 {
		t.Errorf("%d too old ones kept", n)
	}
	m.shelf.shutDown()
}

// delayed is a relay to a peer over a link of the given one-way delay.
func delayed(t *testing.T, to string, delay time.Duration) string {
	t.Helper()
	return serve(t, func(c net.Conn) {
		// The link delays the connection's own handshake too.
		<-time.After(2 * delay)
		out, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		var wg sync.WaitGroup
		wg.Go(func() { delay1(c, out, delay) })
		wg.Go(func() { delay1(out, c, delay) })
		wg.Wait()
		_ = out.Close()
	})
}

type parcel struct {
	due time.Time
	b   []byte
}

// delay1 carries one direction: what came in goes out when it is due, in
// order, without waiting for what came before it to be answered.
func delay1(from, to net.Conn, delay time.Duration) {
	line := make(chan parcel, 1024)
	var wg sync.WaitGroup
	wg.Go(func() {
		for p := range line {
			<-time.After(time.Until(p.due))
			_, _ = to.Write(p.b)
		}
		_ = to.(*net.TCPConn).CloseWrite()
	})
	for {
		b := make([]byte, 4096)
		n, err := from.Read(b)
		if n > 0 {
			line <- parcel{time.Now().Add(delay), b[:n]}
		}
		if err != nil {
			break
		}
	}
	close(line)
	wg.Wait()
}

// TestTimeToFirstByte reports what the warm pool is worth over a link with a
// round trip of 50 ms. The figures are for the reader; no time is asserted.
func TestTimeToFirstByte(t *testing.T) {
	plain := &proxy{user: "u", password: "p"}
	secure, cfg := overTLS(t, plain.socks5)
	secureHTTP, cfgHTTP := overTLS(t, plain.http)
	dest := addr(t, echo(t))
	const oneWay = 25 * time.Millisecond
	for _, tt := range []struct {
		name, via string
		o         func(*Options)
	}{
		{"socks5", "socks5://u:p@" + delayed(t, serve(t, plain.socks5), oneWay), func(*Options) {}},
		{"socks5+tls", "socks5+tls://u:p@" + delayed(t, secure, oneWay), func(o *Options) { o.TLS = cfg }},
		{"https", "https://u:p@" + delayed(t, secureHTTP, oneWay), func(o *Options) { o.TLS = cfgHTTP }},
	} {
		for _, size := range []int{0, 2} {
			o := options(Upstream{Via: []string{tt.via}, Warm: Warm{Size: size}})
			tt.o(&o)
			r := compile(t, o)
			stop := run(t, r)
			r.pools[0].members[0].waitWarm(t, int64(size))
			start := time.Now()
			conn, info, err := r.Route(Query{Dest: dest}).Dial(t.Context(), wire.Addr{IP: dest.IP, Port: dest.Port})
			if err != nil {
				t.Fatal(err)
			}
			connected := time.Since(start)
			roundTrip(t, conn)
			t.Logf("%-10s warm %d: connected after %v, first byte after %v (warm used: %v)",
				tt.name, size, connected.Round(time.Millisecond), time.Since(start).Round(time.Millisecond), info.Warm)
			if info.Warm != (size > 0) {
				t.Errorf("%s: warm %v of %d", tt.name, info.Warm, size)
			}
			_ = conn.Close()
			info.Release()
			stop()
		}
	}
}
