package conn

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"cleversocks/aclsvc"
	"cleversocks/authsvc"
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
		"whole":     {"/whole", nil, metrics.CauseServerClosed, true},
		"cut short": {"/short", nil, metrics.CauseError, true},
		"the client leaves": {"/long", func(_ *testing.T, _ *Group, client *net.TCPConn) {
			client.Close()
		}, metrics.CauseClientClosed, true},
		// By a path of its own: another case's handler may take a moment to see
		// its client gone, and would take what is sent to more.
		"revoked": {"/longer", func(t *testing.T, g *Group, _ *net.TCPConn) {
			t.Helper()
			policy := *g.Policy()
			policy.Generation, policy.ACL, policy.Revoke = 2, deny, true
			g.SetPolicy(&policy)
			more <- struct{}{} // the next bytes meet the new rules
		}, metrics.CauseRevoked, true},
	} {
		t.Run(name, func(t *testing.T) {
			g, m := newTestGroup(t, true)
			records := NewAccessLog(slog.New(slog.DiscardHandler), m)
			g.handler.access = records
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
			func(g *Group) { g.handler.guards.Users.Enter(&limited.Account) }, nil,
			metrics.CauseDenied, metrics.RefusedUserLimit,
		},
		"quota": {
			func(g *Group) { g.handler.guards.Quotas.Of(&limited.Account).Moved(100) }, nil,
			metrics.CauseQuota, metrics.RefusedQuota,
		},
		"rule": {
			func(*Group) {},
			[]aclsvc.Rule{{Action: "deny", To: []string{"127.0.0.0/8"}}},
			metrics.CauseDenied, metrics.RefusedByRule,
		},
	} {
		t.Run(name, func(t *testing.T) {
			g, m := newTestGroup(t, true)
			policy := *g.Policy()
			made := newPolicy(t, Auth{Required: true}, []authsvc.UserOptions{limited}, tt.rules...)
			policy.Auth, policy.ACL = made.Auth, made.ACL
			g.SetPolicy(&policy)
			tt.before(g)
			records := NewAccessLog(slog.New(slog.DiscardHandler), m)
			g.handler.access = records
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
