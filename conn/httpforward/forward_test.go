package httpforward_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cleversocks/conn/httpforward"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
)

func TestKeepAlive(t *testing.T) {
	g := newRig(t, nil)
	u := backend(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.RequestURI()) })
	client := g.client(t)
	for i := range 5 {
		path := fmt.Sprintf("/%d?a;b=%%zz&c", i)
		if code, body, _ := get(t, client, u+path); code != 200 || body != path {
			t.Errorf("%d %q", code, body)
		}
	}
	client.CloseIdleConnections()
	end := <-g.ends
	if end.Requests != 5 || end.BytesIn == 0 || end.BytesOut == 0 {
		t.Errorf("%+v", end)
	}
	if n := g.dials.Load(); n != 1 {
		t.Errorf("%d dials", n)
	}
	if len(g.done) != 5 || g.done[4].Status != 200 || g.done[4].BytesOut == 0 {
		t.Errorf("%+v", g.done)
	}
}

// TestHeaders: what concerns one connection alone does not pass, and nothing
// is added that tells who asked.
func TestHeaders(t *testing.T) {
	g := newRig(t, nil)
	got := make(chan http.Header, 1)
	u := backend(t, func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header.Clone()
		w.Header().Set("Connection", "X-Secret")
		w.Header().Set("X-Secret", "1")
		w.Header().Set("Proxy-Authenticate", "Basic")
		w.Header()["Content-Type"] = nil
		_, _ = io.WriteString(w, "<html>")
	})
	out := g.talk(t, "GET "+u+"/ HTTP/1.1\r\nHost: other.example\r\nConnection: close, X-Hop, x-forwarded-for\r\nX-Hop: 1\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Host: own\r\n"+
		"Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic YTpi\r\nKeep-Alive: 3\r\nX-Own: 2\r\n\r\n")
	h := <-got
	for _, name := range []string{"X-Hop", "Proxy-Connection", "Proxy-Authorization", "Keep-Alive", "X-Forwarded-For", "Via", "Forwarded", "User-Agent", "Accept-Encoding"} {
		if h.Get(name) != "" {
			t.Errorf("%s: %s", name, h.Get(name))
		}
	}
	// Put back in spite of Connection, X-Forwarded-For was the one that passed.
	if h.Get("X-Own") != "2" || h.Get("X-Forwarded-Host") != "own" {
		t.Error("an end-to-end field is lost")
	}
	if strings.Contains(out, "X-Secret") || strings.Contains(out, "Proxy-Authenticate") || strings.Contains(out, "Content-Type") {
		t.Errorf("response %q", out)
	}
}

// TestLogin: a client that asks first logs in on the same connection.
func TestLogin(t *testing.T) {
	g := newRig(t, func(g *rig) {
		g.opts.Decide = func(_ context.Context, r httpforward.Request) httpforward.Verdict {
			if r.Credentials == nil || r.Credentials.Password != "secret" {
				return httpforward.Verdict{AskLogin: true}
			}
			return httpforward.Verdict{Dial: g.dial}
		}
	})
	u := backend(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "in") })
	req := "GET " + u + "/ HTTP/1.1\r\nHost: a\r\n"
	out := g.talk(t, req+"\r\n"+req+"Proxy-Authorization: basic dTpzZWNyZXQ=\r\nConnection: close\r\n\r\n")
	if !strings.HasPrefix(out, "HTTP/1.1 407 ") || !strings.Contains(out, `Proxy-Authenticate: Basic realm="test"`) ||
		!strings.Contains(out, "HTTP/1.1 200 OK") || !strings.HasSuffix(out, "in") {
		t.Errorf("%q", out)
	}
	if end := <-g.ends; end.Requests != 2 {
		t.Errorf("%+v", end)
	}
}

func TestRefusals(t *testing.T) {
	failing := func(err error) func(context.Context, wire.Addr) (httpforward.Server, error) {
		return func(context.Context, wire.Addr) (httpforward.Server, error) { return httpforward.Server{}, err }
	}
	mute := backend(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	tests := map[string]struct {
		verdict httpforward.Verdict
		want    int
	}{
		"policy":    {httpforward.Verdict{Reply: wire.ReplyNotAllowed, Refusal: httpproxy.Refusal{Status: 403, Reason: "No."}}, 403},
		"refused":   {httpforward.Verdict{Dial: failing(syscall.ECONNREFUSED)}, 502},
		"timed out": {httpforward.Verdict{Dial: failing(os.ErrDeadlineExceeded)}, 504},
		"hangs up":  {httpforward.Verdict{Dial: allow}, 502},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, func(g *rig) {
				tt.verdict.Done = g.note
				g.opts.Decide = func(context.Context, httpforward.Request) httpforward.Verdict { return tt.verdict }
				g.opts.Refusal = refusal(func(err error) wire.ReplyCode {
					if errors.Is(err, os.ErrDeadlineExceeded) {
						return wire.ReplyTTLExpired
					}
					return wire.ReplyConnectionRefused
				})
			})
			client := g.client(t)
			code, body, _ := get(t, client, mute)
			if code != tt.want || strings.Count(body, "\n") != 1 {
				t.Errorf("%d %q", code, body)
			}
			client.CloseIdleConnections()
			<-g.ends
			if g.done[0].Status != tt.want || g.done[0].Reply == wire.ReplySucceeded {
				t.Errorf("%+v", g.done)
			}
		})
	}
}

// TestConnectAfterGet: a CONNECT behind plain requests, pipelined even, ends
// them and is handed back with the bytes behind it.
func TestConnectAfterGet(t *testing.T) {
	g := newRig(t, nil)
	release := make(chan struct{})
	u := backend(t, func(w http.ResponseWriter, _ *http.Request) { <-release; _, _ = io.WriteString(w, "page") })
	c, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, _ = io.WriteString(c, "GET "+u+"/ HTTP/1.1\r\nHost: a\r\n\r\nCONNECT example.org:443 HTTP/1.1\r\nHost: a\r\n\r\nhello")
	close(release)
	_ = c.(*net.TCPConn).CloseWrite()
	out, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	first, rest, ok := strings.Cut(string(out), "page")
	if !ok || !strings.HasPrefix(first, "HTTP/1.1 200 OK") || rest != string(httpproxy.AppendEstablished(nil, ""))+"hello" {
		t.Errorf("%q", out)
	}
	if end := <-g.ends; end.Next == nil || end.Next.Target != "example.org:443" || end.Requests != 1 {
		t.Errorf("%+v", end)
	}
}

// TestKeys: a kept connection serves nobody but the key that opened it.
func TestKeys(t *testing.T) {
	var n atomic.Int64
	g := newRig(t, func(g *rig) {
		g.opts.Decide = func(context.Context, httpforward.Request) httpforward.Verdict {
			return httpforward.Verdict{Dial: g.dial, Key: fmt.Sprint(n.Add(1) / 2)}
		}
	})
	u := backend(t, func(http.ResponseWriter, *http.Request) {})
	client := g.client(t)
	for range 4 { // keys 0 1 1 2
		get(t, client, u)
	}
	if n := g.dials.Load(); n != 3 {
		t.Errorf("%d dials for three keys", n)
	}
}

// TestEnds: a connection ends with its context, with the drain, and when
// nothing moves.
func TestEnds(t *testing.T) {
	u := backend(t, func(http.ResponseWriter, *http.Request) {})
	t.Run("idle", func(t *testing.T) {
		g := newRig(t, func(g *rig) { g.opts.IdleTimeout = time.Second })
		get(t, g.client(t), u)
		<-g.ends
	})
	t.Run("drain", func(t *testing.T) {
		drain, begin := context.WithCancel(t.Context())
		g := newRig(t, func(g *rig) { g.opts.Drain = drain })
		get(t, g.client(t), u)
		begin()
		<-g.ends
	})
	t.Run("drain without hurry", func(t *testing.T) {
		drain, begin := context.WithCancel(t.Context())
		hurry, now := context.WithCancel(t.Context())
		g := newRig(t, func(g *rig) { g.opts.Drain, g.opts.Hurry = drain, hurry })
		first, second := g.client(t), g.client(t)
		get(t, first, u)
		get(t, second, u)
		begin() // a request may be on its way, which is served and is the last
		if status, _, _ := get(t, first, u); status != http.StatusOK {
			t.Errorf("status %d", status)
		}
		<-g.ends
		now()
		<-g.ends
	})
	t.Run("context", func(t *testing.T) {
		here := make(chan struct{})
		hang := backend(t, func(_ http.ResponseWriter, r *http.Request) { close(here); <-r.Context().Done() })
		ctx, cancel := context.WithCancel(t.Context())
		g := newRig(t, nil)
		ours, theirs := socketPair(t)
		_, _ = io.WriteString(theirs, "GET "+hang+"/ HTTP/1.1\r\nHost: a\r\n\r\n")
		go func() { <-here; cancel() }()
		r := bufio.NewReader(ours)
		head, err := new(httpproxy.HeadReader).Read(r)
		if err != nil {
			t.Fatal(err)
		}
		httpforward.New(g.opts).Serve(ctx, ours, r, head)
		if _, err := ours.Write([]byte("x")); err == nil {
			t.Error("the connection still takes writes: its deadline was taken back")
		}
	})
}

func socketPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	if b, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if a, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return a, b
}
