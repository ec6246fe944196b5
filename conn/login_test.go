package conn

import (
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"cleversocks/authsvc"
	"cleversocks/conn/cause"
	"cleversocks/metrics"
)

// crowded judges no password before its turn has come.
type crowded struct {
	authsvc.Authenticator
	asked chan struct{} // gets a value for each log-in that waits
	turn  chan struct{} // is closed when all have their turn
	ended chan error    // gets why a log-in gave up its place
}

func newCrowded() *crowded {
	return &crowded{asked: make(chan struct{}, 8), turn: make(chan struct{}), ended: make(chan error, 8)}
}

func (c *crowded) Method() authsvc.Method         { return authsvc.MethodPassword }
func (c *crowded) Accepts(kind authsvc.Kind) bool { return kind == authsvc.KindPassword }

func (c *crowded) Authenticate(ctx context.Context, _ *authsvc.Attempt) (authsvc.Grant, error) {
	c.asked <- struct{}{}
	select {
	case <-c.turn:
		return authsvc.Grant{Identity: authsvc.Identity{User: "ann", Method: authsvc.MethodPassword}}, nil
	case <-ctx.Done():
		c.ended <- ctx.Err()
		return authsvc.Grant{}, ctx.Err()
	}
}

// atCrowd is a group whose log-ins meet c, the records of its connections, and one
// client that has sent its password.
func atCrowd(t *testing.T, c *crowded, timeout time.Duration, sent string) (*Group, *metrics.Registry, chan *Record, *net.TCPConn) {
	t.Helper()
	g, m := newTestGroup(t, true)
	g.handler.logins.after = 5 * time.Millisecond
	policy := *g.Policy()
	policy.Timeouts.Handshake = timeout
	policy.Auth = authsvc.NewAdmission(authsvc.AdmissionOptions{Required: true, Authenticators: []authsvc.Authenticator{c}, Outcomes: m.Conn.Auth})
	g.SetPolicy(&policy)
	records := make(chan *Record, 8)
	log := NewAccessLog(slog.New(slog.DiscardHandler), m)
	log.Watch(func(r *Record) { records <- r }, func() bool { return false })
	g.recordIn(log)
	go func() { _ = log.Serve(t.Context()) }()
	client, server := pair(t, listen(t))
	t.Cleanup(func() { client.Close() })
	if reason := g.Admit(server, "test"); reason != "" {
		t.Fatal(reason)
	}
	if _, err := io.WriteString(client, sent); err != nil {
		t.Fatal(err)
	}
	<-c.asked
	return g, m, records, client
}

const (
	passwordOfAnn = "\x05\x01\x02\x01\x03ann\x05right"
	connectOfAnn  = "CONNECT 127.0.0.1:9 HTTP/1.1\r\nProxy-Authorization: Basic YW5uOnJpZ2h0\r\n\r\n"
)

// TestClientLeavesTheQueue: clients that had given up kept their places among those
// whose passwords wait to be hashed, and took a hash each when their turn came.
func TestClientLeavesTheQueue(t *testing.T) {
	for name, leave := range map[string]func(*net.TCPConn){
		"closed":      func(c *net.TCPConn) { c.Close() },
		"half-closed": func(c *net.TCPConn) { _ = c.CloseWrite() },
		"reset":       func(c *net.TCPConn) { _ = c.SetLinger(0); c.Close() },
	} {
		for _, sent := range []string{passwordOfAnn, connectOfAnn} {
			c := newCrowded()
			g, _, records, client := atCrowd(t, c, patience, sent)
			leave(client)
			<-c.ended
			awaitIdle(t, g)
			if r := <-records; r.Cause != cause.HandshakeFailed || !strings.Contains(r.Err.Error(), "left") {
				t.Errorf("%s: recorded as %s, %v", name, r.Cause, r.Err)
			}
		}
	}
}

// A client may shut its side down and want its answer all the same, when that is to
// come behind what it has sent already.
func TestClientStaysInTheQueue(t *testing.T) {
	for name, sent := range map[string]string{
		"the request is there": passwordOfAnn + "\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x00",
		"a page":               "GET http://127.0.0.1:1/ HTTP/1.0\r\nProxy-Authorization: Basic YW5uOnJpZ2h0\r\n\r\n",
	} {
		c := newCrowded()
		g, _, _, client := atCrowd(t, c, patience, sent)
		_ = client.CloseWrite()
		select {
		case err := <-c.ended:
			t.Errorf("%s: gave up its place: %v", name, err)
		case <-time.After(10 * g.handler.logins.after):
		}
		close(c.turn)
		if answer, err := io.ReadAll(client); err != nil || len(answer) == 0 {
			t.Errorf("%s: %q, %v", name, answer, err)
		}
		awaitIdle(t, g)
	}
}

// TestTimeIsOverInTheQueue: a client whose password nobody had looked at was told
// that it is wrong. Browsers forget it then.
func TestTimeIsOverInTheQueue(t *testing.T) {
	c := newCrowded()
	g, _, _, client := atCrowd(t, c, 2*time.Second, connectOfAnn)
	answer, _ := io.ReadAll(client) // a reset may come behind it
	if !strings.HasPrefix(string(answer), "HTTP/1.1 503 ") {
		t.Errorf("%q, want 503", answer)
	}
	awaitIdle(t, g)
}

// The time for the rest of a handshake goes on behind a log-in that had to wait.
func TestTimeGoesOnBehindTheQueue(t *testing.T) {
	c := newCrowded()
	g, m, _, client := atCrowd(t, c, 3*time.Second, passwordOfAnn) // which a busy machine may need for the log-in
	<-time.After(10 * g.handler.logins.after)                      // by then the client is watched
	close(c.turn)
	if answer, err := io.ReadAll(client); err != nil || string(answer) != "\x05\x02\x01\x00" {
		t.Errorf("%q, %v", answer, err)
	}
	awaitIdle(t, g)
	if n := m.Conn.Handshakes.Of("socks5", "timeout").Get(); n != 1 {
		t.Errorf("%d timed out, want 1", n)
	}
}

// TestDrainDoesNotAwaitTheQueue: log-ins that waited for their turn held a drain up,
// for as long as the hashes of all before them took, whether or not somebody was left
// at their other end.
func TestDrainDoesNotAwaitTheQueue(t *testing.T) {
	c := newCrowded()
	g, _, records, client := atCrowd(t, c, time.Hour, passwordOfAnn)
	g.startDraining()
	<-c.ended
	_, _ = io.ReadAll(client)
	awaitIdle(t, g)
	if r := <-records; r.Cause != cause.Drained {
		t.Errorf("recorded as %s, %v", r.Cause, r.Err)
	}
}

// A process whose successor serves has time for those who wait.
func TestRetirementAwaitsTheQueue(t *testing.T) {
	c := newCrowded()
	g, _, _, client := atCrowd(t, c, patience, passwordOfAnn)
	retired := make(chan struct{})
	go func() { defer close(retired); g.Retire(t.Context()) }()
	select {
	case err := <-c.ended:
		t.Errorf("gave up its place: %v", err)
	case <-time.After(drainGrace + drainGrace/2):
	}
	close(c.turn)
	answer := make([]byte, 4)
	if _, err := io.ReadFull(client, answer); err != nil || string(answer) != "\x05\x02\x01\x00" {
		t.Errorf("%q, %v", answer, err)
	}
	client.Close()
	<-retired
}
