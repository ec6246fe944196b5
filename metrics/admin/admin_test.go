package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func startServer(t *testing.T, o Options) (url string, stop func() error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.Log = slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- New(l, o).Serve(ctx) }()
	return "http://" + l.Addr().String(), func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(20 * time.Second):
			return errors.New("the server does not end")
		}
	}
}

func TestPaths(t *testing.T) {
	ready := errors.New("draining")
	o := Options{
		Metrics: func(w io.Writer) { fmt.Fprintln(w, "some_metric 1") },
		Ready:   func() error { return ready },
		Version: "1.2.3",
	}
	url, stop := startServer(t, o)
	for _, tt := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "/", 200, "<title>CleverSocks</title>"},
		{"GET", "/metrics", 200, "some_metric 1"},
		{"HEAD", "/metrics", 200, ""},
		{"GET", "/healthz", 200, "ok"},
		{"GET", "/readyz", 503, "draining"},
		{"POST", "/metrics", 405, ""},
		{"GET", "/elsewhere", 404, ""},
		{"GET", "/debug/pprof/", 404, ""}, // off unless asked for
	} {
		req, err := http.NewRequest(tt.method, url+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tt.status || !strings.Contains(string(body), tt.body) {
			t.Errorf("%s %s: %d %q", tt.method, tt.path, resp.StatusCode, body)
		}
	}
	ready = nil
	resp, err := http.Get(url + "/readyz")
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("ready: %v, %v", resp, err)
	}
	resp.Body.Close()
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

// A client that sends a byte and no more does not hold the end up.
func TestStopWithASilentClient(t *testing.T) {
	url, stop := startServer(t, Options{Metrics: func(io.Writer) {}, Ready: func() error { return nil }})
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("G")); err != nil {
		t.Fatal(err)
	}
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

// An end of the endpoint, as at an upgrade, is an end of the event stream, once all
// that has come is written. The stream stayed for two seconds more, in which those
// who followed it missed what happened in the successor.
func TestStreamEndsWithTheEndpoint(t *testing.T) {
	events := NewEvents(func() {}, func() {})
	url, stop := startServer(t, Options{API: API{Events: events, Token: func() string { return "secret" }}})
	req, err := http.NewRequest("GET", url+"/api/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer secret")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, make([]byte, len(": CleverSocks\n\n"))); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		events.Publish("closed", Event{Cause: "drained"})
	}
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	body, err := io.ReadAll(resp.Body) // an error, where the connection was cut
	if n := strings.Count(string(body), "event: closed\n"); err != nil || n != 100 {
		t.Errorf("%d events, and %v", n, err)
	}
}
