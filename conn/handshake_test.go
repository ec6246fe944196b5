package conn

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"cleversocks/aclsvc"
	"cleversocks/authsvc"
	"cleversocks/conn/cause"
	"cleversocks/conn/dial"
	"cleversocks/conn/wire"
	"cleversocks/metrics"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// newTestGroup serves with the rules' default as given. It is drained and
// its records are written when the test ends.
func newTestGroup(tb testing.TB, allow bool) (*Group, *metrics.Registry) {
	tb.Helper()
	acl, err := aclsvc.Compile(aclsvc.Options{DefaultAllow: allow})
	if err != nil {
		tb.Fatal(err)
	}
	m := metrics.New()
	log := slog.New(slog.DiscardHandler)
	access := NewAccessLog(log, m)
	g := NewGroup(context.Background(), Options{
		Log: log, Metrics: m, Access: access, DrainTimeout: func() time.Duration { return patience },
	})
	g.SetLimit(1000)
	g.SetPolicy(&Policy{
		Generation: 1, ACL: acl, Auth: authsvc.NewAdmission(authsvc.AdmissionOptions{}),
		Dialer:   dial.New(dial.Options{ConnectTimeout: patience, Metrics: m.Dial}),
		Timeouts: Timeouts{Handshake: patience},
	})
	g.onTestReactors(tb)
	ctx, cancel := context.WithCancel(context.Background())
	served, written := make(chan error, 1), make(chan error, 1)
	go func() { served <- g.Serve(ctx) }()
	go func() { written <- access.Serve(ctx) }()
	tb.Cleanup(func() {
		cancel()
		for _, ended := range []chan error{served, written} {
			select {
			case <-ended:
			case <-time.After(2 * patience):
				tb.Error("the group or its log does not end")
			}
		}
	})
	return g, m
}

// recordIn has the records of a group's connections go to another log.
func (g *Group) recordIn(a *AccessLog) {
	g.access, g.handler.access, g.handler.plain.access = a, a, a
}

// pair is a client's and a server's end of one loopback connection.
func pair(tb testing.TB, l *net.TCPListener) (client, server *net.TCPConn) {
	tb.Helper()
	c, err := net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		tb.Fatal(err)
	}
	s, err := l.AcceptTCP()
	if err != nil {
		tb.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		tb.Fatal(err)
	}
	return c, s
}

func listen(tb testing.TB) *net.TCPListener {
	tb.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	return l
}

// FuzzHandshake feeds any bytes at each state of a handshake, in any two
// segments: the answer is well-formed, and the connection ends.
func FuzzHandshake(f *testing.F) {
	states := [][]byte{
		nil,                                // before the first byte
		{5},                                // inside the methods
		{5, 1, 0},                          // before the request
		{5, 1, 0, 5, 1},                    // inside of it
		{5, 1, 0, 5, 1, 0, 3, 9, 'l', 'o'}, // inside the name
		{4},                                // before a SOCKS4 command
		{4, 1, 0, 80, 0, 0, 0, 1, 'm', 'e', 0, 'l'},                     // inside a 4a name
		[]byte("CONNECT localhost:80 "),                                 // inside a request line
		[]byte("GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n"), // before an empty line
	}
	f.Add(uint8(0), []byte("GET / HTTP/1.1\r\n\r\n"), uint8(3))
	f.Add(uint8(1), []byte{255, 0, 1, 2}, uint8(1))
	f.Add(uint8(1), []byte{1, 2, 1, 0, 0}, uint8(0)) // a user and a password without a letter, and no request
	f.Add(uint8(2), []byte{5, 1, 0, 1, 127, 0, 0, 1, 0, 80, 'x'}, uint8(4))
	f.Add(uint8(3), []byte{0, 4, 0, 0, 0}, uint8(2))
	f.Add(uint8(4), []byte("calhost\x00\x50"), uint8(5))
	f.Add(uint8(5), []byte{1, 0, 80, 127, 0, 0, 1, 0}, uint8(5))
	f.Add(uint8(6), []byte("ocalhost\x00rest"), uint8(9))
	f.Add(uint8(7), []byte("HTTP/1.1\r\nHost: localhost:80\r\n\r\n"), uint8(30))
	f.Add(uint8(8), []byte("\r\nGET http://localhost/2 HTTP/1.1\r\nHost: localhost\r\n\r\n"), uint8(60))
	f.Add(uint8(8), []byte("Content-Length: 3\r\n\r\nabcCONNECT localhost:80 HTTP/1.1\r\n\r\n"), uint8(80))
	g, _ := newTestGroup(f, false) // nothing is dialed
	l := listen(f)
	f.Fuzz(func(t *testing.T, state uint8, in []byte, cut uint8) {
		if len(in) > handshakeBuffer {
			return
		}
		client, server := pair(t, l)
		defer func() { _ = client.SetLinger(0); client.Close() }()
		if reason := g.Admit(server, "test"); reason != "" {
			t.Fatal(reason)
		}
		all := append(bytes.Clone(states[int(state)%len(states)]), in...)
		at := min(int(cut), len(all))
		for _, part := range [][]byte{all[:at], all[at:]} {
			if _, err := client.Write(part); err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Fatal(err)
			}
		}
		_ = client.CloseWrite() // it may be reset already
		answer, err := io.ReadAll(client)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the connection does not end")
		}
		if err := wellFormed(all, answer); err != nil {
			t.Errorf("answer % x to % x: %v", answer, all, err)
		}
	})
}

// wellFormed checks what a server said on a connection that reached nothing.
func wellFormed(sent, answer []byte) error {
	if len(answer) == 0 {
		return nil
	}
	switch sent[0] {
	case 4:
		if len(answer) != 8 || answer[0] != 0 || answer[1] != 91 {
			return errors.New("no failure reply of eight bytes")
		}
		return nil
	case 5:
		return wellFormedSOCKS5(answer)
	}
	for r := bufio.NewReader(bytes.NewReader(answer)); ; {
		response, err := http.ReadResponse(r, nil)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(response.Body)
		switch {
		case err != nil:
			return err
		case response.StatusCode < 400:
			return fmt.Errorf("status %d", response.StatusCode)
		case bytes.Count(body, []byte("\n")) != 1:
			return fmt.Errorf("body %q is not one line", body)
		}
		if _, err := r.Peek(1); err != nil {
			return nil //nolint:nilerr // the end, where it should be
		}
	}
}

func wellFormedSOCKS5(answer []byte) error {
	if len(answer) < 2 || answer[0] != 5 || answer[1] != 0 && answer[1] != 0xff && answer[1] != 2 {
		return errors.New("no method selection")
	}
	rest := answer[2:]
	if answer[1] == 2 && len(rest) >= 2 && rest[0] == 1 { // the answer to a user and a password
		if rest[1] != 0 && len(rest) > 2 {
			return errors.New("something follows a refused password")
		}
		rest = rest[2:]
	}
	switch {
	case len(rest) == 0:
		return nil
	case len(rest) != 10 || rest[0] != 5 || rest[1] == 0 || rest[1] > 8 || rest[2] != 0 || rest[3] != 1:
		return errors.New("no failure reply of ten bytes")
	}
	return nil
}

// A load balancer's probe leaves no record and counts as no failure. haproxy's end by
// a reset, and each was a line of the log.
func TestProbeIsNoFailure(t *testing.T) {
	g, m := newTestGroup(t, false)
	for _, leave := range []func(*net.TCPConn){
		func(c *net.TCPConn) { c.Close() },
		func(c *net.TCPConn) { _ = c.SetLinger(0); c.Close() },
	} {
		client, server := pair(t, listen(t))
		if reason := g.Admit(server, "test"); reason != "" {
			t.Fatal(reason)
		}
		leave(client)
	}
	awaitNone(t, g)
	if n := m.Conn.Handshakes.Of("unknown", "closed").Get(); n != 2 {
		t.Errorf("counted %d times", n)
	}
	if n := len(g.access.queue); n != 0 {
		t.Errorf("%d records", n)
	}
}

func awaitNone(t *testing.T, g *Group) {
	t.Helper()
	deadline := time.After(patience)
	for g.Active() > 0 {
		select {
		case <-g.Changed():
		case <-deadline:
			t.Fatalf("%d connections are left", g.Active())
		}
	}
}

// A panic in one connection's path ends that one and is counted.
func TestPanicEndsOneConnection(t *testing.T) {
	g, m := newTestGroup(t, true)
	policy := *g.Policy()
	policy.Dialer = nil // to be dereferenced
	g.SetPolicy(&policy)
	client, server := pair(t, listen(t))
	if reason := g.Admit(server, "test"); reason != "" {
		t.Fatal(reason)
	}
	if _, err := client.Write([]byte{5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1, 0, 80}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(client); err != nil {
		t.Errorf("the client sees %v, want an end", err)
	}
	client.Close()
	awaitNone(t, g)
	if n := m.Conn.Panics.Of("conn").Get(); n != 1 {
		t.Errorf("counted %d panics", n)
	}
}

func TestLimitAndDrainRefuse(t *testing.T) {
	g, _ := newTestGroup(t, false)
	l := listen(t)
	g.SetLimit(1)
	first, server := pair(t, l)
	defer first.Close()
	if reason := g.Admit(server, "test"); reason != "" {
		t.Fatal(reason)
	}
	second, server := pair(t, l)
	defer second.Close()
	defer server.Close()
	if reason := g.Admit(server, "test"); reason != metrics.RefusedLimit {
		t.Errorf("past the limit: %q", reason)
	}
	g.SetLimit(10)
	g.startDraining()
	if reason := g.Admit(server, "test"); reason != metrics.RefusedDraining {
		t.Errorf("while draining: %q", reason)
	}
}

func TestRecordNames(t *testing.T) {
	r := &Record{
		ID: "7", Listener: "127.0.0.1:1080", Client: netip.MustParseAddrPort("192.0.2.7:5000"), User: "alice", Auth: "password",
		Protocol: wire.SOCKS5, Command: wire.CommandConnect, Target: wire.Addr{Name: "example.com", Port: 443},
		Host: netip.MustParseAddrPort("203.0.113.5:443"), Local: netip.MustParseAddrPort("198.51.100.1:4000"),
		Upstream: "exit", Rule: "acl.rules[0]", BytesIn: 1, BytesOut: 2, Duration: 1500 * time.Microsecond,
		Cause: cause.Error, Replied: true, Err: errors.New("broken"),
	}
	var buf bytes.Buffer
	slog.New(slog.NewJSONHandler(&buf, nil)).LogAttrs(t.Context(), slog.LevelInfo, "connection", r.attrs()...)
	want := `"level":"INFO","msg":"connection","id":"7","listener":"127.0.0.1:1080","client":"192.0.2.7:5000","user":"alice",` +
		`"auth":"password","protocol":"socks5","command":"connect","target":"example.com:443","host_ip":"203.0.113.5:443",` +
		`"local":"198.51.100.1:4000","upstream":"exit","rule":"acl.rules[0]","bytes_in":1,"bytes_out":2,"duration_ms":1.5,` +
		`"cause":"error","reply":"succeeded","client_ip":"192.0.2.7","client_port":5000,"err":"broken"}`
	if _, got, _ := bytes.Cut(bytes.TrimSpace(buf.Bytes()), []byte(",")); string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// A malformed target was recorded as ":80": there is none, and err says why.
func TestRecordWithoutTarget(t *testing.T) {
	r := &Record{Protocol: wire.SOCKS5, Command: wire.CommandConnect, Target: wire.Addr{Port: 80}}
	for _, a := range r.attrs() {
		if a.Key == "target" {
			t.Errorf("target %q", a.Value)
		}
	}
}

func TestAccessModes(t *testing.T) {
	m := metrics.New()
	a := NewAccessLog(slog.New(slog.DiscardHandler), m)
	denied, served := &Record{Cause: cause.Denied}, &Record{Cause: cause.ClientClosed}
	for _, tt := range []struct {
		mode AccessMode
		want int
	}{{AccessAll, 2}, {AccessDenied, 1}, {AccessOff, 0}} {
		a.SetMode(tt.mode)
		a.Log(denied)
		a.Log(served)
		if got := len(a.queue); got != tt.want {
			t.Errorf("%s: %d records, want %d", tt.mode, got, tt.want)
		}
		for len(a.queue) > 0 {
			<-a.queue
		}
	}
	a.SetMode(AccessAll)
	for range accessQueue + 3 { // nobody writes: the rest is dropped and counted
		a.Log(served)
	}
	if n := m.Conn.RecordsDropped.Get(); n != 3 {
		t.Errorf("dropped %d", n)
	}
}
