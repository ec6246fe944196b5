package httpforward_test

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"

	"cleversocks/conn/httpforward"
	"cleversocks/conn/wire"
)

// rawServer answers each connection's first request head with fixed bytes and
// closes. It returns its address and what the heads were.
func rawServer(t *testing.T, answer string) (address string, heads <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	got := make(chan string, 16)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				var head []byte
				for b := make([]byte, 1); !strings.HasSuffix(string(head), "\r\n\r\n"); {
					if _, err := io.ReadFull(c, b); err != nil {
						return
					}
					head = append(head, b...)
				}
				got <- string(head)
				_, _ = io.WriteString(c, answer)
			}()
		}
	}()
	return l.Addr().String(), got
}

// What a client asked for is between it and the server: net/http's client
// decoded paths and encoded them anew, and refused what squid, tinyproxy and
// privoxy pass on.
func TestTargetPassesAsItCame(t *testing.T) {
	address, heads := rawServer(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	for target, want := range map[string]string{
		"/%2F/a|b//../x":       "/%2F/a|b//../x",
		"/\xc3\xa4\xff?q=\xe4": "/\xc3\xa4\xff?q=\xe4",
		"/100%?a=%zz":          "/100%?a=%zz",
		`/"<>\^{}` + "`":       `/"<>\^{}` + "`",
		"?q":                   "/?q",
		"":                     "/",
	} {
		newRig(t, nil).talk(t, "GET http://"+address+target+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		if head := <-heads; !strings.HasPrefix(head, "GET "+want+" HTTP/1.1\r\nHost: "+address+"\r\n") {
			t.Errorf("%q became %q", target, head)
		}
	}
}

// An OPTIONS without a path asks about the server as a whole, and became one about
// its root (RFC 9112 §3.2.4).
func TestOptionsOfTheWholeServer(t *testing.T) {
	address, heads := rawServer(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	for target, want := range map[string]string{"": "*", "/": "/", "/a": "/a", "?q": "/?q"} {
		newRig(t, nil).talk(t, "OPTIONS http://"+address+target+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		if head := <-heads; !strings.HasPrefix(head, "OPTIONS "+want+" HTTP/1.1\r\nHost: "+address+"\r\n") {
			t.Errorf("%q became %q", target, head)
		}
		toParent := newRig(t, func(g *rig) {
			g.opts.Decide = func(context.Context, httpforward.Request) httpforward.Verdict {
				return httpforward.Verdict{Dial: func(context.Context, wire.Addr) (httpforward.Server, error) {
					conn, err := net.Dial("tcp", address)
					return httpforward.Server{Conn: conn, Parent: &httpforward.Parent{}}, err
				}}
			}
		})
		toParent.talk(t, "OPTIONS http://web.example"+target+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		if head := <-heads; !strings.HasPrefix(head, "OPTIONS http://web.example"+strings.TrimPrefix(want, "*")+" HTTP/1.1\r\n") {
			t.Errorf("%q became %q for a parent", target, head)
		}
	}
}

// A user before the host was refused. As with squid, the server gets it as
// Basic credentials, unless the client sends some of its own.
func TestUserInTheTarget(t *testing.T) {
	address, heads := rawServer(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	for field, want := range map[string]string{
		"":                            "Authorization: Basic dXMgZXI6cGE6c3M=\r\n",
		"Authorization: Bearer x\r\n": "Authorization: Bearer x\r\n",
	} {
		newRig(t, nil).talk(t, "GET http://us%20er:pa%3Ass@"+address+"/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"+field+"\r\n")
		if head := <-heads; !strings.Contains(head, want) || strings.Count(head, "Authorization") != 1 || strings.Contains(head, "@") {
			t.Errorf("%q", head)
		}
	}
}

// Servers are read as squid, tinyproxy, privoxy and Apache read them where
// these agree, and refused where the body's end could be in two places.
func TestServersAreReadLeniently(t *testing.T) {
	const chunks = "2\r\nok\r\n0\r\n\r\n"
	for name, tt := range map[string]struct{ answer, want string }{
		"no reason":              {"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 \r\n*\r\n\r\nok"},
		"bare LF":                {"HTTP/1.1 200 OK\nX: y\nContent-Length: 2\n\nok", "HTTP/1.1 200 OK\r\nX: y\r\n*\r\n\r\nok"},
		"folded":                 {"HTTP/1.1 200 OK\r\nX: a\r\n  b\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nX: a b\r\n*\r\n\r\nok"},
		"blank before the colon": {"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok", "HTTP/1.1 200 OK\r\n*Content-Length: 2\r\n*\r\n\r\nok"},
		"bare CR":                {"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nX: a b\r\n*\r\n\r\nok"},
		"no field at all":        {"HTTP/1.1 200 OK\r\njunk\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n*ok"},
		"length twice":           {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2, 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n*ok"},
		"two lengths":            {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", "HTTP/1.1 502 *"},
		"no length":              {"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", "HTTP/1.1 502 *"},
		"length and chunks":      {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n*\r\n\r\n" + chunks},
		"chunks of HTTP/1.0":     {"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n*\r\n\r\n" + chunks},
		"chunked twice":          {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n*\r\n\r\n" + chunks},
		"identity":               {"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n*ok"},
		"another coding":         {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + chunks, "HTTP/1.1 502 *"},
		"extension and trailer":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n002;a=\"b\"\r\nok\r\n0\r\nX-T: 1\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 200 OK\r\n*2\r\nok\r\n0\r\nX-T: 1\r\n\r\n"},
		"until it closes":        {"HTTP/1.1 200 OK\r\n\r\nok", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n*\r\n\r\n" + chunks},
		"cut short":              {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "HTTP/1.1 200 OK\r\n*\r\n\r\n2\r\nok\r\n"},
		"internet radio":         {"ICY 200 OK\r\nicy-name: x\r\n\r\nok", "ICY 200 OK\r\nicy-name: x\r\n\r\nok"},
		"HTTP/0.9":               {"<html>", "HTTP/1.1 502 *"},
		"NUL":                    {"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 502 *"},
		"nobody's 101":           {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nhello", "HTTP/1.1 502 *"},
		"early hints":            {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"},
		"not modified":           {"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"},
		"odd status":             {"HTTP/1.1 999 Nicht gefunden \xe4\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 999 Nicht gefunden \xe4\r\n*ok"},
	} {
		t.Run(name, func(t *testing.T) {
			address, _ := rawServer(t, tt.answer)
			out := newRig(t, nil).talk(t, "GET http://"+address+"/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			if !matches(out, tt.want) {
				t.Errorf("%q became %q", tt.answer, out)
			}
		})
	}
}

// matches reports whether s is the pattern, where each "*" stands for anything.
func matches(s, pattern string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	s, ok := strings.CutPrefix(s, first)
	if !ok || !star {
		return ok && s == ""
	}
	for i := range len(s) + 1 {
		if matches(s[i:], rest) {
			return true
		}
	}
	return false
}

// Heads of 8 KiB and 100 fields were all that passed: a page with many cookies
// was refused.
func TestLargeHeads(t *testing.T) {
	for name, fields := range map[string]string{
		"one large field": "Cookie: " + strings.Repeat("x", 63<<10) + "\r\n",
		"many fields":     strings.Repeat("X-Field: some value\r\n", 998),
	} {
		t.Run(name, func(t *testing.T) {
			address, heads := rawServer(t, "HTTP/1.1 200 OK\r\n"+fields+"Content-Length: 2\r\n\r\nok")
			out := newRig(t, nil).talk(t, "GET http://"+address+"/ HTTP/1.1\r\nHost: a\r\n"+fields+"Connection: close\r\n\r\n")
			if head := <-heads; !strings.Contains(head, fields) || !strings.Contains(out, fields) || !strings.HasSuffix(out, "ok") {
				t.Errorf("%d bytes there, %d back", len(head), len(out))
			}
		})
	}
}

// A client that half-closes behind its request still wants the answer.
func TestHalfClosedClient(t *testing.T) {
	address, _ := rawServer(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	c, err := net.Dial("tcp", newRig(t, nil).addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, _ = io.WriteString(c, "GET http://"+address+"/ HTTP/1.1\r\nHost: a\r\n\r\n")
	_ = c.(*net.TCPConn).CloseWrite()
	if out, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(out), "\r\n\r\nok") {
		t.Errorf("%q, %v", out, err)
	}
}
