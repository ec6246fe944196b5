package httpforward_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"cleversocks/conn/httpforward"
	"cleversocks/conn/wire"
)

// TestSmuggling: the good request is served, what two parsers could read
// apart behind it is answered 400 and goes nowhere.
func TestSmuggling(t *testing.T) {
	var hits atomic.Int64
	u := backend(t, func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "ok")
	})
	good := "POST " + u + "/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
	post := "POST " + u + "/ HTTP/1.1\r\nHost: a\r\n"
	for name, bad := range map[string]string{
		"CL and TE":  post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"bare LF":    strings.ReplaceAll(post, "\r\n", "\n") + "\n",
		"obs-fold":   post + "X: a\r\n b\r\n\r\n",
		"origin":     "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"https":      "GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
		"not HTTP":   "\x16\x03\x01\x00\r\n",
		"two Host":   post + "Host: b\r\n\r\n",
		"blank name": post + "X : b\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			hits.Store(0)
			out := newRig(t, nil).talk(t, good+bad)
			if strings.Count(out, "HTTP/1.1 200 OK") != 1 || strings.Count(out, "HTTP/1.1 400 ") != 1 || hits.Load() != 1 {
				t.Errorf("%d hits, %q", hits.Load(), out)
			}
		})
	}
	for name, body := range map[string]string{
		"bare LF":        "3\nabc\r\n0\r\n\r\n",
		"sign":           "+3\r\nabc\r\n0\r\n\r\n",
		"hex prefix":     "0x3\r\nabc\r\n0\r\n\r\n",
		"empty size":     "\r\nabc\r\n0\r\n\r\n",
		"longer chunk":   "2\r\nabc\r\n0\r\n\r\n",
		"huge size":      "fffffffffffffffff\r\nabc",
		"long extension": "3;" + strings.Repeat("x", 5000) + "\r\nabc\r\n0\r\n\r\n",
		"long trailer":   "0\r\n" + strings.Repeat("A: b\r\n", 1000) + "\r\n",
	} {
		t.Run("chunk "+name, func(t *testing.T) {
			out := newRig(t, nil).talk(t, post+"Transfer-Encoding: chunked\r\n\r\n"+body)
			if strings.Contains(out, " 200 ") {
				t.Errorf("%q", out)
			}
		})
	}
}

// TestChunked: a chunked body arrives whole, extensions and trailers do not,
// however the network cuts it; the next request is found behind it.
func TestChunked(t *testing.T) {
	bodies := make(chan string, 2)
	u := backend(t, func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		bodies <- fmt.Sprintf("%s %v %v", b, err, r.Trailer)
	})
	in := "POST " + u + "/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" +
		"3;x=y\r\nabc\r\n00A \r\n0123456789\r\n0\r\nX-Trailer: 1\r\n\r\n" +
		"GET " + u + "/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	g := newRig(t, nil)
	c, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for i := range len(in) {
		if _, err = io.WriteString(c, in[i:i+1]); err != nil {
			t.Fatal(err)
		}
	}
	out, err := io.ReadAll(c)
	if err != nil || strings.Count(string(out), "200 OK") != 2 {
		t.Fatalf("%q, %v", out, err)
	}
	if got := <-bodies; got != "abc0123456789 <nil> map[]" {
		t.Error(got)
	}
	if got := <-bodies; got != " <nil> map[]" {
		t.Error(got)
	}
}

// TestStreams: neither a request's body nor a response's waits for its end.
func TestStreams(t *testing.T) {
	u := backend(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		b := make([]byte, 1)
		for {
			if _, err := io.ReadFull(r.Body, b); err != nil {
				return
			}
			_, _ = w.Write(b)
			_ = rc.Flush()
		}
	})
	pr, pw := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, u, pr)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(pw, "a") }()
	resp, err := newRig(t, nil).client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b := make([]byte, 1)
	if _, err := io.ReadFull(resp.Body, b); err != nil || b[0] != 'a' {
		t.Errorf("%q, %v", b, err)
	}
	_ = pw.Close()
}

func TestExpectContinue(t *testing.T) {
	u := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusExpectationFailed)
			return
		}
		_, _ = io.Copy(w, r.Body)
	})
	client := newRig(t, nil).client(t)
	for path, want := range map[string]int{"/yes": 200, "/no": 417} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, u+path, strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Expect", "100-continue")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != want || want == 200 && string(b) != "body" {
			t.Errorf("%s: %d %q", path, resp.StatusCode, b)
		}
	}
}

// TestUpgrade: after a 101 bytes pass both ways as they are, lines that look
// like bad requests too.
func TestUpgrade(t *testing.T) {
	u := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		c, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		line, _ := brw.ReadString('\n')
		_, _ = io.WriteString(c, "got "+line)
	})
	g := newRig(t, nil)
	c, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, _ = io.WriteString(c, "GET "+u+"/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "websocket" {
		t.Fatal(resp, err)
	}
	_, _ = io.WriteString(c, "bare\x00line\n")
	if line, err := r.ReadString('\n'); err != nil || line != "got bare\x00line\n" {
		t.Errorf("%q, %v", line, err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	<-g.ends
	if len(g.done) != 1 || g.done[0].Status != 101 {
		t.Errorf("%+v", g.done)
	}
}

// TestRefusedUpgrade: a server that answered 101 for a protocol that nobody had
// asked for turned the checks of all further requests off, although the
// upgrade came to nothing and the connection went on.
func TestRefusedUpgrade(t *testing.T) {
	u := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
		_ = c.Close()
	})
	g := newRig(t, nil)
	c, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	for _, tt := range []struct {
		end    string
		status int
	}{{"\r\n", 502}, {"\n", 400}} { // bare LF: refused as ever
		_, _ = io.WriteString(c, strings.ReplaceAll("GET "+u+"/ HTTP/1.1|Host: a|Connection: Upgrade|Upgrade: websocket||", "|", tt.end))
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != tt.status {
			t.Errorf("answered %d, want %d", resp.StatusCode, tt.status)
		}
	}
	<-g.ends
	if len(g.done) != 1 || g.done[0].Status != 502 {
		t.Errorf("%+v", g.done)
	}
}

// A request whose body nobody wants, since its server cannot be reached, made
// the server read ahead while it read the body, and panic at the next request
// ("invalid concurrent Body.Read call"). The panic left a read behind, which
// met the next user of the buffer: Chromium's posts to where it could not get
// showed both.
func TestUnreadBody(t *testing.T) {
	u := backend(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "fine") })
	for name, body := range map[string]string{
		"length":  "Content-Length: 5\r\n\r\nhello",
		"chunked": "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, nil)
			dead := errors.New("nobody there")
			g.opts.Decide = func(_ context.Context, r httpforward.Request) httpforward.Verdict {
				dial := g.dial
				if r.Method == http.MethodPost {
					dial = func(context.Context, wire.Addr) (httpforward.Server, error) { return httpforward.Server{}, dead }
				}
				return httpforward.Verdict{Dial: dial, Key: r.Method}
			}
			c, err := net.Dial("tcp", g.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			r := bufio.NewReader(c)
			for range 20 {
				for _, one := range []struct {
					request string
					status  int
				}{{"POST " + u + " HTTP/1.1\r\nHost: a\r\n" + body, 502}, {"GET " + u + " HTTP/1.1\r\nHost: a\r\n\r\n", 200}} {
					if _, err := io.WriteString(c, one.request); err != nil {
						t.Fatal(err)
					}
					res, err := http.ReadResponse(r, nil)
					if err != nil {
						t.Fatal(err)
					}
					_, _ = io.Copy(io.Discard, res.Body)
					if res.StatusCode != one.status {
						t.Fatalf("status %d, want %d", res.StatusCode, one.status)
					}
				}
			}
		})
	}
}
