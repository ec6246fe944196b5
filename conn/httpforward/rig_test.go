package httpforward_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cleversocks/conn/httpforward"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
)

// rig is a proxy on a loopback port whose connections are handled as conn's
// Handler would: read a head, serve plain requests, answer CONNECT with 200.
type rig struct {
	addr  string
	opts  httpforward.Options
	ends  chan httpforward.End
	dials atomic.Int64
	mu    sync.Mutex
	done  []httpforward.Outcome
}

func allow(ctx context.Context, dest wire.Addr) (httpforward.Server, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", dest.String())
	return httpforward.Server{Conn: conn}, err
}

func newRig(t *testing.T, change func(*rig)) *rig {
	t.Helper()
	g := &rig{ends: make(chan httpforward.End, 64)}
	g.opts = httpforward.Options{
		Decide: func(context.Context, httpforward.Request) httpforward.Verdict {
			return httpforward.Verdict{Dial: g.dial, Done: g.note}
		},
		Refusal:     refusal(func(error) wire.ReplyCode { return wire.ReplyConnectionRefused }),
		IdleTimeout: time.Minute,
		Challenges:  httpproxy.Challenges{httpproxy.Basic("test")},
	}
	if change != nil {
		change(g)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { g.handle(ctx, c) })
		}
	})
	t.Cleanup(func() { cancel(); _ = ln.Close(); wg.Wait() })
	return g
}

func (g *rig) dial(ctx context.Context, dest wire.Addr) (httpforward.Server, error) {
	g.dials.Add(1)
	return allow(ctx, dest)
}

func (g *rig) note(o httpforward.Outcome) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.done = append(g.done, o)
}

func (g *rig) handle(ctx context.Context, c net.Conn) {
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	head, err := new(httpproxy.HeadReader).Read(r)
	if err != nil {
		return
	}
	end := httpforward.New(g.opts).Serve(ctx, c, r, head)
	if end.Upgrade != nil {
		g.join(c, r, end.Upgrade)
	}
	if end.Next != nil {
		_, _ = c.Write(httpproxy.AppendEstablished(nil, ""))
		_, _ = io.Copy(c, r) // the tunnel: an echo
	}
	g.ends <- end
}

// join is the tunnel of an upgrade, half-close included.
func (g *rig) join(c net.Conn, r *bufio.Reader, u *httpforward.Upgrade) {
	g.note(u.Outcome)
	defer func() { _ = u.Server.Close() }()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(u.Server, r)
		_ = u.Server.(*net.TCPConn).CloseWrite()
	})
	_, _ = c.Write(u.Ahead)
	_, _ = io.Copy(c, u.Server)
	_ = c.(*net.TCPConn).CloseWrite()
	wg.Wait()
}

// refusal tells a client of an error by the code that it is mapped to.
func refusal(code func(error) wire.ReplyCode) func(error) (wire.ReplyCode, httpproxy.Refusal) {
	return func(err error) (wire.ReplyCode, httpproxy.Refusal) {
		c := code(err)
		return c, httpproxy.Refusal{Status: httpproxy.Status(c), Reason: httpproxy.Reason(c)}
	}
}

func (g *rig) client(t *testing.T) *http.Client {
	t.Helper()
	tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: g.addr}), ExpectContinueTimeout: time.Minute, MaxConnsPerHost: 1}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// talk sends raw bytes, says that there are no more, and reads to the end.
func (g *rig) talk(t *testing.T, in string) string {
	t.Helper()
	c, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err = io.WriteString(c, in); err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	return string(out)
}

func get(t *testing.T, client *http.Client, u string) (int, string, http.Header) {
	t.Helper()
	resp, err := client.Get(u)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

func backend(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	ts := httptest.NewServer(h)
	t.Cleanup(ts.Close)
	return ts.URL
}
