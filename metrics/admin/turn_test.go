package admin

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// yielding is a server that is told to yield, and a client which it has let in.
func yielding(t *testing.T) (s *Server, address string, in net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s = New(l, Options{Log: slog.New(slog.DiscardHandler), API: API{Token: func() string { return "secret" }}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
	in = dialEndpoint(t, l.Addr().String())
	if status := askOver(t, in, "GET", "/healthz"); status != http.StatusOK {
		t.Fatalf("%d", status)
	}
	return s, l.Addr().String(), in
}

func dialEndpoint(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// askOver is the status of an answer.
func askOver(t *testing.T, c net.Conn, method, path string) int {
	t.Helper()
	if _, err := io.WriteString(c, method+" "+path+" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}

// For a moment behind an upgrade the predecessor still answered whoever connected
// or had a connection: with its own state, and a ban that came then was its alone.
func TestYield(t *testing.T) {
	s, address, kept := yielding(t)
	s.Yield()
	s.Yield() // twice is once
	if n, err := kept.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("a connection that asks nothing: %d, %v", n, err)
	}
	waiting := dialEndpoint(t, address)
	if _, err := io.WriteString(waiting, "GET /healthz HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if back, given := s.door.turn.given(); !given || back == nil {
		t.Fatal("the turn was not given")
	}
	s.door.mu.Lock()
	if n := len(s.door.places); n > 1 {
		t.Errorf("%d clients are inside", n)
	}
	s.door.mu.Unlock()
	s.Resume()
	s.Resume()
	if answer, err := io.ReadAll(waiting); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.0 200") {
		t.Errorf("who waited: %q, %v", answer, err)
	}
	again := dialEndpoint(t, address)
	for range 2 {
		if status := askOver(t, again, "GET", "/healthz"); status != http.StatusOK {
			t.Errorf("%d after the turn was taken back", status)
		}
	}
}

// A client that was let in before the turn was given may look, and change nothing.
func TestChangesAfterYield(t *testing.T) {
	s, _, _ := yielding(t)
	h := s.turned(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	statuses := func() string {
		var all []string
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE"} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(method, "/api/v1/bans", nil))
			all = append(all, strconv.Itoa(w.Code))
		}
		return strings.Join(all, " ")
	}
	s.Yield()
	if got := statuses(); got != "200 200 503 503 503" {
		t.Errorf("after the turn was given: %s", got)
	}
	s.Resume()
	if got := statuses(); got != "200 200 200 200 200" {
		t.Errorf("after it was taken back: %s", got)
	}
}

// An endpoint that has yielded ends as any other does, also before it served.
func TestEndAfterYield(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(l, Options{Log: slog.New(slog.DiscardHandler)})
	s.Yield()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	c := dialEndpoint(t, l.Addr().String())
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("%d, %v", n, err)
	}
}
