package conn

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"cleversocks/authsvc"
	"cleversocks/metrics"
)

// countRelayed has what relays move counted, as the daemon has it.
func countRelayed(g *Group, m *metrics.Registry) {
	policy := *g.Policy()
	policy.Relay.Metrics = &m.Relay
	g.SetPolicy(&policy)
}

// In a soak of an hour the bytes of all access records were more than those of
// cleversocks_relay_bytes_total: what a client sends ahead, as every TLS client of a
// transparent listener does, was in its record and not in the metric.
func TestWhatIsSentAheadIsCounted(t *testing.T) {
	const ahead = "all of it"
	g, m := newTestGroup(t, true)
	countRelayed(g, m)
	policy := *g.Policy()
	users, err := authsvc.NewUsers(authsvc.UsersOptions{User: "ann", Password: "s3cret", Metrics: &m.Auth})
	if err != nil {
		t.Fatal(err)
	}
	policy.Auth = authsvc.NewAdmission(authsvc.AdmissionOptions{Authenticators: []authsvc.Authenticator{users}})
	g.SetPolicy(&policy)
	records := NewAccessLog(slog.New(slog.DiscardHandler), m)
	g.recordIn(records)
	var in, out uint64 // so far
	for name, session := range sessions(sinkServer(t)) {
		talk(t, g, []byte(session[0]+ahead))
		r := await(t, records)
		in, out = in+uint64(r.BytesIn), out+uint64(r.BytesOut)
		if r.BytesIn != int64(len(ahead)) || m.Relay.BytesIn.Get() != in || m.Relay.BytesOut.Get() != out {
			t.Errorf("%s: recorded %d and %d, counted in all %d of %d and %d of %d",
				name, r.BytesIn, r.BytesOut, m.Relay.BytesIn.Get(), in, m.Relay.BytesOut.Get(), out)
		}
	}
}

// A plain request that became a tunnel, as WebSockets do, left the local end of its
// connection in the list by which loops are found, for as long as the process
// lasted: with a random source address of an IPv6 prefix, without a bound. And what
// its server sent with the answer was charged to its user twice.
func TestUpgradedRequestLeavesNothing(t *testing.T) {
	const first, more = "at once", "later"
	l := listen(t)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"+first)
		_, _ = io.CopyN(c, c, int64(len(more)))
	}()
	g, m := newTestGroup(t, true)
	countRelayed(g, m)
	alice := account("alice")
	alice.QuotaBytes, alice.QuotaPeriod = 1<<20, time.Hour
	policy := *g.Policy()
	policy.Auth = newPolicy(t, authsvc.AdmissionOptions{Required: true}, []authsvc.UserEntry{alice}).Auth
	g.SetPolicy(&policy)
	client, server := pair(t, listen(t))
	defer client.Close()
	if reason := g.Admit(server, "test"); reason != "" {
		t.Fatal(reason)
	}
	fmt.Fprintf(client, "GET http://%s/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nProxy-Authorization: Basic YWxpY2U6eA==\r\n\r\n", l.Addr())
	r := bufio.NewReader(client)
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(res, err)
	}
	_, _ = io.WriteString(client, more)
	got := make([]byte, len(first+more))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != first+more {
		t.Fatalf("%q: %v", got, err)
	}
	client.Close()
	eventuallyIn(t, func() bool { return g.Active() == 0 })
	dialed := &g.handler.dialed
	dialed.mu.Lock()
	left := len(dialed.ends)
	dialed.mu.Unlock()
	if left != 0 {
		t.Errorf("%d ends are left", left)
	}
	used, sum := g.handler.guards.Quotas.List()[0].Used, m.Relay.BytesIn.Get()+m.Relay.BytesOut.Get()
	user := m.Users.Of("alice")
	if used != int64(sum) || user.BytesIn.Get() != m.Relay.BytesIn.Get() || user.BytesOut.Get() != m.Relay.BytesOut.Get() {
		t.Errorf("charged %d, counted for alice %d and %d, relayed %d and %d",
			used, user.BytesIn.Get(), user.BytesOut.Get(), m.Relay.BytesIn.Get(), m.Relay.BytesOut.Get())
	}
}
