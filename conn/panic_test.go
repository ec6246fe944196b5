package conn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cleversocks/aclsvc/ratelimit"
	"cleversocks/authsvc"
	"cleversocks/bind"
	"cleversocks/conn/cause"
	"cleversocks/conn/dial"
	"cleversocks/conn/netaddr"
	"cleversocks/conn/relay"
	"cleversocks/conn/upstream"
	"cleversocks/conn/wire/httpproxy"
	"cleversocks/e2e/written"
	"cleversocks/metrics"
	"cleversocks/resolver"
	"cleversocks/udprelay"
)

// faultyUsers knows one user, who may have one connection.
type faultyUsers struct {
	authsvc.Authenticator
	panics  bool
	account *authsvc.Account
}

func (f *faultyUsers) Method() authsvc.Method         { return authsvc.MethodPassword }
func (f *faultyUsers) Accepts(kind authsvc.Kind) bool { return kind == authsvc.KindPassword }

func (f *faultyUsers) Authenticate(context.Context, *authsvc.Attempt) (authsvc.Grant, error) {
	if f.panics {
		panic("authentication")
	}
	return authsvc.Grant{Identity: authsvc.Identity{User: f.account.Name, Method: authsvc.MethodPassword, Account: f.account}}, nil
}

// panicking is a group with one place for each source and each user, so that
// a place which a panic kept would be missed at once.
func panicking(t *testing.T) (g *Group, m *metrics.Registry, log *written.Text) {
	t.Helper()
	g, m = newTestGroup(t, true)
	log = new(written.Text)
	h := g.handler
	h.panics.Log = slog.New(slog.NewTextHandler(log, nil))
	h.guards.Gate = ratelimit.NewGate()
	h.guards.Gate.Set(ratelimit.GateOptions{PerSource: 1})
	return g, m, log
}

// speak sends all that a client has to say and reads until the connection ends. One
// that is to be connected says something to the server as well: who has nothing to say
// and ends is taken for gone, if the dial lasts.
func speak(t *testing.T, g *Group, sent []byte) []byte {
	t.Helper()
	client, server := pair(t, listen(t))
	defer client.Close()
	if reason := g.Admit(server, "test"); reason != "" {
		t.Fatalf("refused: %s; a place was not given back", reason)
	}
	if _, err := client.Write(sent); err != nil {
		t.Fatal(err)
	}
	_ = client.CloseWrite() // it may be reset already
	got, err := io.ReadAll(client)
	if ne, ok := err.(net.Error); ok && ne.Timeout() { //nolint:errorlint // a test
		t.Fatal("the connection does not end")
	}
	return got
}

// A panic in a look-up ended the daemon, and so did one in the record of a
// connection. Whichever stage panics, that connection ends alone, gives back
// what it held, and counter and log say where it was.
func TestPanicInEachStage(t *testing.T) {
	login := []byte("\x05\x01\x02\x01\x01u\x01p")
	request := func(command byte, dest string) []byte {
		return append(append(bytes.Clone(login), 5, command, 0), dest...)
	}
	name := "\x03\x09a.invalid\x00\x50"
	for stage, tt := range map[string]struct {
		sent  []byte
		fault func(*Policy, *faultyUsers)
	}{
		"codec":          {request(1, name), func(p *Policy, _ *faultyUsers) { p.Auth = nil }},
		"authentication": {request(1, name), func(_ *Policy, u *faultyUsers) { u.panics = true }},
		"decision":       {request(1, name), func(p *Policy, _ *faultyUsers) { p.ACL = nil }},
		"dial":           {request(1, name), func(p *Policy, _ *faultyUsers) { p.Dialer = nil }},
		"look-up":        {request(1, name), nil},
		"BIND":           {request(2, name), nil},
		"association": {request(3, "\x01\x00\x00\x00\x00\x00\x00"), func(p *Policy, _ *faultyUsers) {
			p.AssociateVia = func(upstream.Query, upstream.Origin) func(context.Context) (udprelay.Upstream, error) {
				panic("association")
			}
		}},
	} {
		t.Run(stage, func(t *testing.T) {
			g, m, log := panicking(t)
			users := &faultyUsers{account: &authsvc.Account{Name: "u", MaxConnections: 1}}
			healthy := *g.Policy()
			healthy.Auth = authsvc.NewAdmission(authsvc.AdmissionOptions{Required: true, Authenticators: []authsvc.Authenticator{users}})
			healthy.UDP, healthy.Bind = udprelay.New(udprelay.RelayOptions{}), bind.New(bind.ServerOptions{Panics: g.handler.panics})
			faulty := healthy
			faulty.Dialer = dial.New(dial.Options{Panics: g.handler.panics, Lookup: func(context.Context, string, resolver.Family) ([]netip.Addr, error) {
				panic("look-up")
			}})
			if tt.fault != nil {
				tt.fault(&faulty, users)
			}
			g.SetPolicy(&faulty)
			speak(t, g, tt.sent)
			awaitIdle(t, g)
			if n := panicsOf(m); n == 0 {
				t.Error("no panic was counted")
			}
			if !strings.Contains(log.String(), "panic") || !strings.Contains(log.String(), "where=") {
				t.Errorf("log: %s", log)
			}
			if n := m.Conn.Active.Of("socks5").Load() + m.Conn.Active.Of("unknown").Load(); n != 0 {
				t.Errorf("the gauge of connections says %d", n)
			}
			// The same source and the same user come again.
			users.panics = false
			g.SetPolicy(&healthy)
			to := sinkServer(t)
			got := speak(t, g, append(request(1, "\x01\x7f\x00\x00\x01"), byte(to.Port()>>8), byte(to.Port()), 'x'))
			if len(got) < 6 || !bytes.Equal(got[:6], []byte{5, 2, 1, 0, 5, 0}) {
				t.Errorf("the next connection got % x", got)
			}
			awaitIdle(t, g)
		})
	}
}

// A panic in a log-in kept what the request's head had taken of the memory for
// heads: after some of them, nobody could send a large one any more.
func TestPanicGivesHeadsBack(t *testing.T) {
	g, _, _ := panicking(t)
	const head = 32 << 10
	g.handler.heads = httpproxy.NewBudget(4*head, func() {})
	users := &faultyUsers{account: &authsvc.Account{Name: "u"}, panics: true}
	policy := *g.Policy()
	policy.Auth = authsvc.NewAdmission(authsvc.AdmissionOptions{Required: true, Authenticators: []authsvc.Authenticator{users}})
	g.SetPolicy(&policy)
	to := sinkServer(t)
	request := fmt.Sprintf("CONNECT %s HTTP/1.1\r\nHost: %s\r\nProxy-Authorization: Basic dTpw\r\nX: %s\r\n\r\n", to, to, strings.Repeat("x", head))
	for range 10 {
		speak(t, g, []byte(request))
		awaitIdle(t, g)
	}
	users.panics = false
	if got := speak(t, g, []byte(request+"x")); !bytes.HasPrefix(got, []byte("HTTP/1.1 200 ")) {
		t.Errorf("the next large head is answered %.60q", got)
	}
}

// A panic while a session ends, on whichever goroutine that happens, keeps
// nothing that the session had taken.
func TestPanicInTheEnd(t *testing.T) {
	g, m, log := panicking(t)
	_, server := pair(t, listen(t))
	s := &session{conn: server, client: netaddr.Of(server.RemoteAddr()), started: time.Now(), policy: g.Policy(), cause: cause.ClientClosed}
	if reason := g.handler.guards.enter(s) + g.add(s); reason != "" {
		t.Fatal(reason)
	}
	var left atomic.Bool
	s.ctx = s.scope.begin(t.Context())
	s.hop = &hop{leave: func() { left.Store(true); panic("pool") }}
	g.metrics.Conn.Active.Of("unknown").Add(1)
	g.end(s)
	g.end(s) // the relay's callback and the task may both call it after a panic
	if !left.Load() || g.Active() != 0 || s.ctx.Err() == nil || m.Conn.Active.Of("unknown").Load() != 0 {
		t.Errorf("not given back: %d sessions", g.Active())
	}
	if reason := g.handler.guards.enter(s); reason != "" {
		t.Errorf("the source's place: %s", reason)
	}
	if m.Conn.Panics.Of("record").Get() != 1 || !strings.Contains(log.String(), "where=record") {
		t.Errorf("log: %s", log)
	}
}

// TestPanicInALiveRelay: a defect in what moves or counts a tunnel's bytes ends
// that tunnel with both its sides, whoever drives it, and nothing else: another
// tunnel moves on, and the user's one place is free again.
func TestPanicInALiveRelay(t *testing.T) {
	pools := relay.NewPools(relay.PoolOptions{Reactors: 1})
	ctx, cancel := context.WithCancel(t.Context())
	var served sync.WaitGroup
	for _, r := range pools.Reactors() {
		served.Go(func() { _ = r.Serve(ctx) })
	}
	defer served.Wait()
	defer cancel()
	for driver, options := range map[string]relay.Options{"reactor": {Pools: pools}, "goroutine": {}} {
		t.Run(driver, func(t *testing.T) {
			g, m := newTestGroup(t, true)
			log := new(written.Text)
			g.handler.panics.Log = slog.New(slog.NewTextHandler(log, nil))
			users := &faultyUsers{account: &authsvc.Account{Name: "u", MaxConnections: 1}}
			policy := *g.Policy()
			policy.Relay = options
			policy.Relay.Metrics = &m.Relay
			policy.Auth = authsvc.NewAdmission(authsvc.AdmissionOptions{Required: true, Authenticators: []authsvc.Authenticator{users}})
			g.SetPolicy(&policy)
			l := listen(t)
			healthy, itsServer := tunnelTo(t, g, l)
			users.account = &authsvc.Account{Name: "v", MaxConnections: 1}
			counts := m.Users.Of("v")
			bytesIn := counts.BytesIn
			counts.BytesIn = nil // to be dereferenced when the client's bytes are counted
			faulty, server := tunnelTo(t, g, l)
			_, _ = faulty.Write([]byte("x")) // it fails where no bytes were a count too
			for side, c := range map[string]net.Conn{"client": faulty, "server": server} {
				if _, err := io.Copy(io.Discard, c); isTimeout(err) {
					t.Errorf("the %s's side is open still", side)
				}
			}
			awaitSessions(t, g, 1)
			if n := m.Conn.Panics.Of("relay").Get(); n != 1 || panicsOf(m) != 1 {
				t.Errorf("counted %d panics of relays, %d in all", n, panicsOf(m))
			}
			if !strings.Contains(log.String(), "where=relay") || !strings.Contains(log.String(), "stack=") {
				t.Errorf("log: %s", log)
			}
			if n := m.Relay.End.Of(cause.Error).Get(); n != 1 {
				t.Errorf("%d relays ended with an error", n)
			}
			if n := counts.Active.Load(); n != 0 {
				t.Errorf("the user has %d connections", n)
			}
			if _, err := itsServer.Write([]byte("still here")); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len("still here"))
			if _, err := io.ReadFull(healthy, got); err != nil || string(got) != "still here" {
				t.Errorf("the other tunnel moves %q, %v", got, err)
			}
			counts.BytesIn = bytesIn
			tunnelTo(t, g, l) // the user may have one: the place is free
		})
	}
}

// tunnelTo opens a tunnel of the one user to a listener.
func tunnelTo(t *testing.T, g *Group, l *net.TCPListener) (client, server *net.TCPConn) {
	t.Helper()
	client, door := pair(t, listen(t))
	t.Cleanup(func() { client.Close() })
	if reason := g.Admit(door, "test"); reason != "" {
		t.Fatalf("refused: %s", reason)
	}
	to := l.Addr().(*net.TCPAddr).AddrPort()
	request := append([]byte("\x05\x01\x02\x01\x01u\x01p\x05\x01\x00\x01\x7f\x00\x00\x01"), byte(to.Port()>>8), byte(to.Port()))
	if _, err := client.Write(request); err != nil {
		t.Fatal(err)
	}
	_ = l.SetDeadline(time.Now().Add(patience))
	server, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	_ = server.SetDeadline(time.Now().Add(patience))
	reply := make([]byte, 2+2+10)
	if _, err := io.ReadFull(client, reply); err != nil || reply[5] != 0 {
		t.Fatalf("answered % x, %v", reply, err)
	}
	return client, server
}

// awaitSessions waits until there are so many connections.
func awaitSessions(t *testing.T, g *Group, n int) {
	t.Helper()
	late := time.After(patience)
	for g.Active() != n {
		select {
		case <-g.Changed():
		case <-time.After(10 * time.Millisecond):
		case <-late:
			t.Fatalf("%d connections, want %d", g.Active(), n)
		}
	}
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

func panicsOf(m *metrics.Registry) (n uint64) {
	m.Conn.Panics.Each(func(_ string, of uint64) { n += of })
	return n
}

// awaitIdle waits until all connections have ended.
func awaitIdle(t *testing.T, g *Group) {
	t.Helper()
	awaitSessions(t, g, 0)
}
