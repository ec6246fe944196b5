package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
	"cleversocks/conn/wire/socks4"
	"cleversocks/e2e/need"
	"cleversocks/metrics"
)

// serve runs handle for every connection to a loopback port until the test
// ends, and waits for all of them.
func serve(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := make(map[net.Conn]struct{})
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = struct{}{}
			mu.Unlock()
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				handle(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}

// echo answers with what it reads.
func echo(t *testing.T) string {
	t.Helper()
	return serve(t, func(c net.Conn) { _, _ = io.Copy(c, c) })
}

// free is a loopback address for a program to listen at.
func free(t *testing.T) string {
	t.Helper()
	return need.Free(t).String()
}

// proxy is a small proxy for tests: it tunnels to where it is asked.
type proxy struct {
	user, password string
	accepted       atomic.Int64
	asked          chan string // destinations, when not nil
	code           byte        // a SOCKS5 reply code to refuse everything with
}

func (p *proxy) note(dest string) {
	if p.asked != nil {
		p.asked <- dest
	}
}

func splice(a net.Conn, ra io.Reader, b net.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(b, ra); _ = b.(interface{ CloseWrite() error }).CloseWrite() })
	wg.Go(func() { _, _ = io.Copy(a, b); _ = a.(interface{ CloseWrite() error }).CloseWrite() })
	wg.Wait()
	_ = b.Close()
}

func (p *proxy) socks5(c net.Conn) {
	p.accepted.Add(1)
	r := bufio.NewReader(c)
	head := make([]byte, 2)
	if _, err := io.ReadFull(r, head); err != nil || head[0] != 5 {
		return
	}
	if _, err := r.Discard(int(head[1])); err != nil {
		return
	}
	if p.user == "" {
		_, _ = c.Write([]byte{5, 0})
	} else {
		_, _ = c.Write([]byte{5, 2})
		if !p.login(c, r) {
			return
		}
	}
	dest, cmd, err := readTestRequest(r)
	if err != nil {
		return
	}
	p.note(dest)
	switch {
	case p.code != 0:
		_, _ = c.Write([]byte{5, p.code, 0, 1, 0, 0, 0, 0, 0, 0})
	case cmd == byte(wire.CommandUDPAssociate):
		_, _ = c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0x30, 0x39})
		_, _ = io.Copy(io.Discard, r)
	default:
		p.tunnel(c, r, dest, []byte{5, 0, 0, 1, 127, 0, 0, 1, 0, 1}, []byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0})
	}
}

func (p *proxy) login(c net.Conn, r *bufio.Reader) bool {
	field := func() string {
		n, _ := r.ReadByte()
		b := make([]byte, n)
		_, _ = io.ReadFull(r, b)
		return string(b)
	}
	_, _ = r.ReadByte()
	ok := field() == p.user
	ok = field() == p.password && ok
	if !ok {
		_, _ = c.Write([]byte{1, 1})
		return false
	}
	_, _ = c.Write([]byte{1, 0})
	return true
}

func (p *proxy) tunnel(c net.Conn, r io.Reader, dest string, yes, no []byte) {
	out, err := net.Dial("tcp", dest)
	if err != nil {
		_, _ = c.Write(no)
		return
	}
	_, _ = c.Write(yes)
	splice(c, r, out)
}

func (p *proxy) socks4(c net.Conn) {
	p.accepted.Add(1)
	r := bufio.NewReader(c)
	req, err := readSOCKS4(r)
	if err != nil {
		return
	}
	p.note(req.Dest.String())
	no := socks4.AppendReply(nil, wire.ReplyGeneralFailure, netip.AddrPort{})
	if req.UserID != p.user {
		_, _ = c.Write(no)
		return
	}
	p.tunnel(c, r, req.Dest.String(), socks4.AppendReply(nil, wire.ReplySucceeded, netip.AddrPort{}), no)
}

func readSOCKS4(r *bufio.Reader) (socks4.Request, error) {
	for {
		b, _ := r.Peek(r.Buffered())
		req, n, err := socks4.ParseRequest(b)
		if !errors.Is(err, wire.ErrShort) {
			_, _ = r.Discard(n)
			return req, err
		}
		if _, err := r.Peek(len(b) + 1); err != nil {
			return req, err
		}
	}
}

func (p *proxy) http(c net.Conn) {
	p.accepted.Add(1)
	r := bufio.NewReader(c)
	head, err := new(httpproxy.HeadReader).Read(r)
	if err != nil {
		return
	}
	req, err := head.Request()
	if err != nil {
		return
	}
	p.note(req.Dest.String())
	creds, _, _ := head.Credentials()
	if creds.User != p.user || creds.Password != p.password {
		_, _ = c.Write(httpproxy.AppendAuthRequired(nil, httpproxy.Challenges{httpproxy.Basic("test")}, false))
		return
	}
	p.tunnel(c, r, req.Dest.String(), httpproxy.AppendEstablished(nil, ""), httpproxy.AppendError(nil, 503, "no", false))
}

func readTestRequest(r *bufio.Reader) (dest string, cmd byte, err error) {
	// A request has the reply's layout, with the command in the code's place.
	code, addr, err := readSOCKS5Reply(r)
	return addr.String(), byte(code), err
}

// overTLS wraps a handler in TLS with httptest's own certificate, and is the
// client configuration that trusts it.
func overTLS(t *testing.T, handle func(net.Conn)) (string, *tls.Config) {
	t.Helper()
	ts := httptest.NewUnstartedServer(nil)
	ts.StartTLS()
	cfg := &tls.Config{Certificates: ts.TLS.Certificates, MinVersion: tls.VersionTLS13}
	pool := x509.NewCertPool()
	pool.AddCert(ts.Certificate())
	ts.Close()
	return serve(t, func(c net.Conn) { handle(tls.Server(c, cfg)) }), &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

func tcpDial(ctx context.Context, a wire.Addr) (*net.TCPConn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", a.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// options is a working set with one upstream "up".
func options(u Upstream) Options {
	u.Name = "up"
	m := metrics.New()
	return Options{
		Upstreams: []Upstream{u},
		Forward:   []Rule{{Upstream: "up"}},
		Dial:      tcpDial,
		Metrics:   &m.Upstream,
		Logger:    slog.New(slog.DiscardHandler),
	}
}

func compile(t *testing.T, o Options) *Router {
	t.Helper()
	r, err := Compile(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// run serves the router's pools until the test ends or stop is called.
func run(t *testing.T, r *Router) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, p := range r.Pools() {
		wg.Go(func() {
			if err := p.Serve(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("Serve: %v", err)
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return stop
}

// eventually polls for what other goroutines bring about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func addr(t *testing.T, s string) wire.Addr {
	t.Helper()
	host, port, err := splitHostPort(s)
	if err != nil {
		t.Fatal(err)
	}
	a, err := wire.ParseHost(host, port)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// roundTrip proves that a tunnel carries bytes and begins with none.
func roundTrip(t *testing.T, c net.Conn) {
	t.Helper()
	const msg = "through the tunnel"
	if _, err := io.WriteString(c, msg); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(msg))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != msg {
		t.Fatalf("echo %q, %v", b, err)
	}
}
