package httpforward_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cleversocks/conn/httpforward"
	"cleversocks/conn/wire"
)

// A server that answers 413 while 40 MB are on their way closes without having
// read them. net/http's client took the failed write for the request's end, and
// up to a third of such answers became 502.
func TestEarlyAnswerReachesTheClient(t *testing.T) {
	const size = 40 << 20
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = http.ReadRequest(bufio.NewReader(c)) // its head alone
			_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 9\r\n\r\ntoo large")
			_ = c.Close() // with much unread: a reset
		}
	}()
	g := newRig(t, nil)
	for range 10 {
		c, err := net.Dial("tcp", g.addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, "POST http://"+l.Addr().String()+"/ HTTP/1.1\r\nHost: a\r\nContent-Length: 41943040\r\n\r\n")
		// As many clients do: all of the body first, then the answer.
		if n, err := io.Copy(c, io.LimitReader(zeros{}, size)); err != nil {
			t.Fatalf("sent %d bytes: %v", n, err)
		}
		out, err := io.ReadAll(c)
		_ = c.Close()
		if err != nil || !strings.HasPrefix(string(out), "HTTP/1.1 413 Too Large\r\n") || !strings.HasSuffix(string(out), "too large") {
			t.Fatalf("%q, %v", out, err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// A POST on a kept connection whose server has just closed it was answered
// 502, and a proxy must not send it twice (RFC 9110 §9.2.2): it gets a
// connection of its own. A GET that meets the close is sent again.
func TestKeptConnectionThatClosed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				r := bufio.NewReader(c)
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, req.Body)
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				_, _ = r.Peek(1) // the next request meets the close
			}()
		}
	}()
	g := newRig(t, nil)
	client := g.client(t)
	for range 20 {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodGet, http.MethodPut} {
			req, err := http.NewRequestWithContext(t.Context(), method, "http://"+l.Addr().String(), strings.NewReader(map[bool]string{true: "body"}[method[0] == 'P']))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("%s: %d", method, resp.StatusCode)
			}
		}
	}
}

// Half-close works both ways in an upgraded connection: docker attach says
// that its input has ended, and reads on.
func TestUpgradeHalfCloses(t *testing.T) {
	u := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		c, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = io.WriteString(c, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nat once ")
		all, _ := io.ReadAll(brw)
		_, _ = io.WriteString(c, "all of "+string(all))
	})
	c, err := net.Dial("tcp", newRig(t, nil).addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, _ = io.WriteString(c, "POST "+u+"/attach HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nthe input")
	_ = c.(*net.TCPConn).CloseWrite()
	out, err := io.ReadAll(c)
	if err != nil || !strings.HasSuffix(string(out), "\r\n\r\nat once all of the input") {
		t.Errorf("%q, %v", out, err)
	}
}

// A parent gets requests in absolute-form, with its own credentials: CONNECT to
// port 80 is what squid refuses by default. Its 407 is about us, and must not
// ask the client for a password.
func TestParent(t *testing.T) {
	address, heads := rawServer(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	refusing, _ := rawServer(t, "HTTP/1.1 407 Auth\r\nProxy-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nno")
	var refused atomic.Int64
	to := func(address string) httpforward.Server {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Error(err)
		}
		return httpforward.Server{Conn: conn, Parent: &httpforward.Parent{
			Authorization: "Basic cGFyZW50",
			Refused:       func(int) error { refused.Add(1); return io.ErrNoProgress },
		}}
	}
	for name, tt := range map[string]struct {
		members []string
		want    string
		refused int64
	}{
		"works":              {[]string{address}, "HTTP/1.1 200 OK\r\n", 0},
		"one of two refuses": {[]string{refusing, address}, "HTTP/1.1 200 OK\r\n", 1},
		"all refuse":         {[]string{refusing}, "HTTP/1.1 502 ", 3},
	} {
		t.Run(name, func(t *testing.T) {
			refused.Store(0)
			var dials atomic.Int64
			g := newRig(t, func(g *rig) {
				g.opts.Decide = func(context.Context, httpforward.Request) httpforward.Verdict {
					return httpforward.Verdict{Dial: func(context.Context, wire.Addr) (httpforward.Server, error) {
						return to(tt.members[int(dials.Add(1)-1)%len(tt.members)]), nil
					}}
				}
			})
			out := g.talk(t, "GET http://u:p@web.example:81/%2F?q HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic YTpi\r\nConnection: close\r\n\r\n")
			if !strings.HasPrefix(out, tt.want) || strings.Contains(out, "Proxy-Authenticate") || refused.Load() != tt.refused {
				t.Errorf("%d refused, %q", refused.Load(), out)
			}
			if tt.want != "HTTP/1.1 200 OK\r\n" {
				return
			}
			head := <-heads
			for _, part := range []string{"GET http://web.example:81/%2F?q HTTP/1.1\r\nHost: web.example:81\r\n", "Proxy-Authorization: Basic cGFyZW50\r\n", "Authorization: Basic dTpw\r\n"} {
				if !strings.Contains(head, part) || strings.Contains(head, "YTpi") {
					t.Errorf("no %q in %q", part, head)
				}
			}
		})
	}
}

// Nothing that moves for too long is told so, where an answer is still owed.
func TestIdleServer(t *testing.T) {
	mute := backend(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	g := newRig(t, func(g *rig) { g.opts.IdleTimeout = 1500 * time.Millisecond })
	if out := g.talk(t, "GET "+mute+"/ HTTP/1.1\r\nHost: a\r\n\r\n"); !strings.HasPrefix(out, "HTTP/1.1 504 ") {
		t.Errorf("%q", out)
	}
}
