package conn

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"cleversocks/aclsvc"
	"cleversocks/authsvc"
	"cleversocks/conn/cause"
	"cleversocks/conn/relay"
	"cleversocks/conn/wire"
	"cleversocks/metrics"
)

// await is the next record of a log that nobody writes.
func await(t *testing.T, a *AccessLog) *Record {
	t.Helper()
	select {
	case r := <-a.queue:
		return r
	case <-time.After(patience):
		t.Fatal("no record")
		return nil
	}
}

// Each plain request's record says why it ended.
func TestForwardedRequestsAreRecorded(t *testing.T) {
	deny, err := aclsvc.Compile(aclsvc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	more := make(chan struct{})
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/whole":
			fmt.Fprint(w, "all of it")
		case "/short":
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "a part")
		case "/long", "/longer":
			w.Header().Set("Content-Length", "100000000")
			fmt.Fprint(w, "a part")
			_ = http.NewResponseController(w).Flush()
			if r.URL.Path == "/long" {
				<-r.Context().Done()
				return
			}
			select {
			case <-more:
				fmt.Fprint(w, "another part")
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			case <-r.Context().Done():
			}
		}
	}))
	t.Cleanup(web.Close)
	for name, tt := range map[string]struct {
		path    string
		during  func(t *testing.T, g *Group, client *net.TCPConn)
		cause   string
		replied bool
	}{
		"whole":     {"/whole", nil, cause.ServerClosed, true},
		"cut short": {"/short", nil, cause.Error, true},
		// By a reset: one that only says that it sends no more gets its answer,
		// and a closed one cannot be told from that.
		"the client leaves": {"/long", func(_ *testing.T, _ *Group, client *net.TCPConn) {
			_ = client.SetLinger(0)
			client.Close()
		}, cause.ClientClosed, true},
		// By a path of its own: another case's handler may take a moment to see
		// its client gone, and would take what is sent to more.
		"revoked": {"/longer", func(t *testing.T, g *Group, _ *net.TCPConn) {
			t.Helper()
			policy := *g.Policy()
			policy.Generation, policy.ACL, policy.Revoke = 2, deny, true
			g.SetPolicy(&policy)
			more <- struct{}{} // the next bytes meet the new rules
		}, cause.Revoked, true},
		// It used to go on for as long as nothing moved, and no line said so.
		"revoked while nothing moves": {"/long", func(t *testing.T, g *Group, _ *net.TCPConn) {
			t.Helper()
			policy := *g.Policy()
			policy.Generation, policy.ACL, policy.Revoke = 2, deny, true
			g.SetPolicy(&policy)
			if n := g.Revoke(); n != 1 {
				t.Errorf("%d revoked", n)
			}
		}, cause.Revoked, true},
	} {
		t.Run(name, func(t *testing.T) {
			g, m := newTestGroup(t, true)
			records := NewAccessLog(slog.New(slog.DiscardHandler), m)
			g.recordIn(records)
			var log bytes.Buffer // written to before the record is
			g.handler.judge.log = slog.New(slog.NewTextHandler(&log, nil))
			client, server := pair(t, listen(t))
			defer client.Close()
			if reason := g.Admit(server, "test"); reason != "" {
				t.Fatal(reason)
			}
			if _, err := fmt.Fprintf(client, "GET %s%s HTTP/1.1\r\nHost: x\r\n\r\n", web.URL, tt.path); err != nil {
				t.Fatal(err)
			}
			res, err := http.ReadResponse(bufio.NewReader(client), nil)
			if err != nil {
				t.Fatal(err)
			}
			if tt.during != nil {
				if _, err := io.ReadFull(res.Body, make([]byte, len("a part"))); err != nil {
					t.Fatal(err)
				}
				tt.during(t, g, client)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			r := await(t, records)
			if r.Cause != tt.cause || r.Replied != tt.replied || r.BytesOut == 0 || r.BytesIn == 0 || !r.Host.IsValid() {
				t.Errorf("recorded %+v", r)
			}
			// The log tells of every session that a reload ends; of plain
			// requests it said nothing.
			if told := strings.Contains(log.String(), `msg="session revoked"`); told != (tt.cause == cause.Revoked) {
				t.Errorf("logged %q", log.String())
			}
		})
	}
}

// A plain request that its user's limits or the rules refused was recorded as
// a failed dial, which log.access = "denied" drops, and counted nowhere.
func TestRefusedPlainRequests(t *testing.T) {
	limited := account("alice")
	limited.MaxConnections, limited.QuotaBytes, limited.QuotaPeriod = 1, 100, time.Hour
	for name, tt := range map[string]struct {
		before        func(*Group)
		rules         []aclsvc.Rule
		cause, reason string
	}{
		"too many": {
			func(g *Group) {
				g.handler.guards.Users.Enter(t.Context(), &limited.Account, netip.MustParseAddr("127.0.0.1"), nil)
			}, nil,
			cause.Denied, metrics.RefusedUserLimit,
		},
		"quota": {
			func(g *Group) { g.handler.guards.Quotas.Of(&limited.Account).Moved(100) }, nil,
			cause.Quota, metrics.RefusedQuota,
		},
		"rule": {
			func(*Group) {},
			[]aclsvc.Rule{{Action: "deny", To: []string{"127.0.0.0/8"}}},
			cause.Denied, metrics.RefusedByRule,
		},
	} {
		t.Run(name, func(t *testing.T) {
			g, m := newTestGroup(t, true)
			policy := *g.Policy()
			made := newPolicy(t, authsvc.AdmissionOptions{Required: true}, []authsvc.UserEntry{limited}, tt.rules...)
			policy.Auth, policy.ACL = made.Auth, made.ACL
			g.SetPolicy(&policy)
			tt.before(g)
			records := NewAccessLog(slog.New(slog.DiscardHandler), m)
			g.recordIn(records)
			answer := talkOn(t, g, []byte("GET http://127.0.0.1:9/ HTTP/1.1\r\nHost: x\r\n"+
				"Proxy-Authorization: Basic YWxpY2U6eA==\r\nConnection: close\r\n\r\n"))
			if !bytes.HasPrefix(answer, []byte("HTTP/1.1 403")) {
				t.Errorf("answer %q", answer)
			}
			if r := await(t, records); r.Cause != tt.cause || r.Reply != wire.ReplyNotAllowed {
				t.Errorf("recorded %+v", r)
			}
			if n := m.Conn.Refused.Of(tt.reason).Get(); n != 1 {
				t.Errorf("%d counted", n)
			}
		})
	}
}

// A client that left while its user's bandwidth held its server's connection
// up kept the connection, and its place, until the pause was over: up to ten
// minutes.
func TestForwardedPauseEndsWithTheConnection(t *testing.T) {
	g, _ := newTestGroup(t, true)
	ours, theirs := pair(t, listen(t))
	defer theirs.Close()
	paused := make(chan struct{})
	c := &forwardConn{
		Conn: ours, of: &g.handler.plain, route: &session{ctx: t.Context()}, closed: make(chan struct{}),
		meter: pausing(paused),
	}
	c.judged.Store(g.Policy())
	if _, err := theirs.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 1)); read <- err }()
	<-paused
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-read:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %v", err)
		}
	case <-time.After(patience):
		t.Error("the pause goes on")
	}
}

// pausing is a meter that closes the channel and then lets nothing move.
type pausing chan struct{}

func (p pausing) Reserve(_ relay.Direction, n int) (int, time.Duration, error) {
	close(p)
	return n, time.Hour, nil
}

func (p pausing) Settle(relay.Direction, int, int) {}

// The library dials in a goroutine of its own, where nobody recovered: one
// panic under a plain request ended the daemon. One in a decision kept what
// the request had taken of its user.
func TestPanicsEndOnePlainRequest(t *testing.T) {
	for name, breaks := range map[string]func(*Policy){
		"decision": func(p *Policy) { p.ACL = nil },
		"dial":     func(p *Policy) { p.Dialer = nil },
	} {
		t.Run(name, func(t *testing.T) {
			g, m := newTestGroup(t, true)
			alice := account("alice")
			policy := *g.Policy()
			policy.Auth = newPolicy(t, authsvc.AdmissionOptions{Required: true}, []authsvc.UserEntry{alice}).Auth
			breaks(&policy)
			g.SetPolicy(&policy)
			records := NewAccessLog(slog.New(slog.DiscardHandler), m)
			g.recordIn(records)
			answer := talkOn(t, g, []byte("GET http://127.0.0.1:9/ HTTP/1.1\r\nHost: x\r\n"+
				"Proxy-Authorization: Basic YWxpY2U6eA==\r\nConnection: close\r\n\r\n"))
			if !bytes.HasPrefix(answer, []byte("HTTP/1.1 502")) {
				t.Errorf("answer %q", answer)
			}
			await(t, records)
			eventuallyIn(t, func() bool { return m.Conn.Panics.Of("conn").Get() == 1 })
			// The connection's end, which is behind the record's, gives its
			// user's place back.
			for end := time.Now().Add(patience); ; {
				probe, _ := g.handler.guards.Users.Enter(t.Context(), &alice.Account, netip.MustParseAddr("127.0.0.1"), nil)
				n := probe.Open()
				probe.Leave(netip.MustParseAddr("127.0.0.1"))
				if n == 1 {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("%d connections are still the user's", n-1)
				}
				runtime.Gosched()
			}
		})
	}
}
