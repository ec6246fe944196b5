package conn

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"cleversocks/aclsvc"
	"cleversocks/authsvc"
	"cleversocks/conn/cause"
)

// multiplexed is a client of HTTP/2 whose one connection a group serves.
func multiplexed(t *testing.T, g *Group) *http2.ClientConn { //nolint:staticcheck // the standard library's successor is newer than our Go
	t.Helper()
	client, server := pair(t, listen(t))
	t.Cleanup(func() { client.Close() })
	if reason := g.Admit(server, "test"); reason != "" {
		t.Fatal(reason)
	}
	//nolint:staticcheck // as above
	c, err := (&http2.Transport{AllowHTTP: true, DisableCompression: true}).NewClientConn(client)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// tunnel opens a tunnel through c.
func tunnel(t *testing.T, c *http2.ClientConn, to string, fields http.Header) (*io.PipeWriter, *http.Response) { //nolint:staticcheck // as above
	t.Helper()
	r, w := io.Pipe()
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Scheme: "https", Host: to}, Host: to, Header: fields, Body: r}
	res, err := c.RoundTrip(req.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	return w, res
}

// Many tunnels share a connection, and each has a record. A destination that
// ends first still gets what the client sends; a stream that is reset is no
// end of its bytes.
func TestTunnelsInOneConnection(t *testing.T) {
	g, m := newTestGroup(t, true)
	records := NewAccessLog(slog.New(slog.DiscardHandler), m)
	g.recordIn(records)
	listener := listen(t)
	got := make(chan string, 1)
	failed := make(chan error, 1)
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.WriteString(c, "bye")
				_ = c.(*net.TCPConn).CloseWrite()
				all, err := io.ReadAll(c)
				if err != nil {
					failed <- err
					return
				}
				got <- fmt.Sprint(len(all))
			}()
		}
	}()
	c := multiplexed(t, g)
	for range 3 {
		w, res := tunnel(t, c, listener.Addr().String(), nil)
		if said, err := io.ReadAll(res.Body); err != nil || string(said) != "bye" {
			t.Fatalf("%q, %v", said, err)
		}
		if _, err := w.Write(bytes.Repeat([]byte("x"), 300_000)); err != nil { // more than the window
			t.Fatal(err)
		}
		_ = w.Close()
		if n := <-got; n != "300000" {
			t.Errorf("%s bytes behind the destination's end", n)
		}
		if r := await(t, records); r.BytesIn != 300_000 || r.BytesOut != 3 || r.Notes != "http2" || !r.Replied {
			t.Errorf("recorded %+v", r)
		}
	}
	// The connection that carries them was listed as a handshake, for hours.
	if !slices.ContainsFunc(g.Sessions(), func(r *Record) bool { return r.Requests }) {
		t.Error("no session is told as one that carries requests")
	}
	w, res := tunnel(t, c, listener.Addr().String(), nil)
	// The destination has written by then: a write that met the reset would take
	// the socket's error, and its reader see a clean end.
	if said, err := io.ReadAll(res.Body); err != nil || string(said) != "bye" {
		t.Fatalf("%q, %v", said, err)
	}
	_, _ = io.WriteString(w, "a part")
	_ = w.CloseWithError(errors.New("given up")) // the transport resets the stream
	select {
	case err := <-failed:
		if err == nil {
			t.Error("no error")
		}
	case n := <-got:
		t.Errorf("a reset stream looked whole: %s bytes", n)
	case <-time.After(patience):
		t.Error("the destination was not told")
	}
	if r := await(t, records); r.Cause != cause.ClientReset {
		t.Errorf("recorded %+v", r)
	}
}

// What is refused says so on its stream, and the others go on. Who has logged
// in hears of the rule.
func TestRefusalsOnStreams(t *testing.T) {
	g, _ := newTestGroup(t, true)
	policy := *g.Policy()
	made := newPolicy(t, authsvc.AdmissionOptions{Required: true}, []authsvc.UserEntry{account("alice")}, aclsvc.Rule{Action: "deny", To: []string{"192.0.2.1"}})
	policy.Auth, policy.ACL = made.Auth, made.ACL
	g.SetPolicy(&policy)
	c := multiplexed(t, g)
	right := http.Header{"Proxy-Authorization": {"Basic YWxpY2U6eA=="}}
	for range 3 {
		for _, tt := range []struct {
			to     string
			fields http.Header
			status int
			told   string
		}{
			{"192.0.2.1:80", right, 403, `cleversocks; error=http_request_denied; details="acl.rules[0]"`},
			{"127.0.0.1:1", right, 502, "cleversocks; error=connection_refused"},
			{"127.0.0.1:1", nil, 407, ""},
			{"127.0.0.1:1", http.Header{"Proxy-Authorization": {"Basic YWxpY2U6eQ=="}}, 407, ""},
		} {
			w, res := tunnel(t, c, tt.to, tt.fields)
			body, err := io.ReadAll(res.Body)
			_ = w.Close()
			if res.StatusCode != tt.status || res.Header.Get("Proxy-Status") != tt.told || err != nil || bytes.Count(body, []byte("\n")) != 1 {
				t.Errorf("%s: %d %q %q, %v", tt.to, res.StatusCode, res.Header.Get("Proxy-Status"), body, err)
			}
		}
	}
}

// Browsers send what is not for TLS as plain requests over the same connection.
func TestPlainRequestsOnStreams(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Cookie", r.Header.Get("Cookie"))
		w.Header().Set("X-Length", fmt.Sprint(r.ContentLength))
		if r.URL.Path == "/chunks" {
			for range 3 {
				fmt.Fprint(w, "chunk ")
				_ = http.NewResponseController(w).Flush()
			}
		}
		fmt.Fprintf(w, "%s %s %s", r.Method, r.RequestURI, body)
	}))
	t.Cleanup(web.Close)
	g, _ := newTestGroup(t, true)
	c := multiplexed(t, g)
	for _, tt := range []struct{ method, path, body, want, length string }{
		{"GET", "/a?b", "", "GET /a?b ", "0"},
		{"HEAD", "/", "", "", "0"},
		{"GET", "/chunks", "", "chunk chunk chunk GET /chunks ", "0"},
		{"POST", "/", "known", "POST / known", "5"},
		{"PUT", "/", "unknown", "PUT / unknown", "-1"},
	} {
		var body io.Reader = strings.NewReader(tt.body)
		if tt.length == "-1" {
			body = io.MultiReader(body) // of a length that is not told
		}
		req, err := http.NewRequestWithContext(t.Context(), tt.method, web.URL+tt.path, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header["Cookie"] = []string{"a=1; b=2"}
		res, err := c.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(res.Body)
		if err != nil || string(out) != tt.want || res.Header.Get("X-Cookie") != "a=1; b=2" || res.Header.Get("X-Length") != tt.length {
			t.Errorf("%s %s: %q, %v, %v", tt.method, tt.path, out, err, res.Header)
		}
	}
}

// A drain says goodbye to the connection and waits for its tunnels.
func TestDrainOfStreams(t *testing.T) {
	g, _ := newTestGroup(t, true)
	listener := listen(t)
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	c := multiplexed(t, g)
	w, res := tunnel(t, c, listener.Addr().String(), nil)
	g.startDraining()
	eventuallyIn(t, func() bool { return !c.CanTakeNewRequest() })
	go func() { _, _ = io.WriteString(w, "still here"); _ = w.Close() }()
	if out, err := io.ReadAll(res.Body); err != nil || string(out) != "still here" {
		t.Errorf("%q, %v", out, err)
	}
	eventuallyIn(t, func() bool { return g.Active() == 0 })
}
