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
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"cleversocks/aclsvc"
	"cleversocks/authsvc"
	"cleversocks/conn/dial"
	"cleversocks/e2e/need"
	"cleversocks/metrics"
	"cleversocks/resolver"
)

// told is what everybody hears of one connection: its client, the access log and
// the metrics.
type told struct {
	Answer string
	Record string
	Counts []string
}

// TestDriversAgree: there are two drivers of a handshake, in a task and on a
// reactor, and nobody can tell which of them served a connection. What a client is
// answered, what is recorded and what is counted is the same, byte for byte.
func TestDriversAgree(t *testing.T) {
	to, closed := sinkServer(t), need.Refusing(t)
	for name, sent := range conversations(to, closed) {
		t.Run(name, func(t *testing.T) {
			want := tellOf(t, "tasks", chat{sent: sent, known: true})
			got := tellOf(t, "reactors", chat{sent: sent, known: true})
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("a reactor's differs from a task's:\n%s", diff)
			}
		})
	}
}

// conversations are what clients send, until the end of their stream.
func conversations(to, closed netip.AddrPort) map[string]string {
	port := func(at netip.AddrPort) string { return string([]byte{byte(at.Port() >> 8), byte(at.Port())}) }
	all := map[string]string{
		"nothing":                      "",
		"no protocol":                  "\x00\x01\x02",
		"half of a greeting":           "\x05\x02\x00",
		"no way to log in":             "\x05\x01\x01",
		"half of a request":            "\x05\x01\x00\x05\x01\x00\x01\x7f",
		"a command that is none":       "\x05\x01\x00\x05\x09\x00\x01\x7f\x00\x00\x01\x00\x50",
		"an address type that is none": "\x05\x01\x00\x05\x01\x00\x09\x7f\x00\x00\x01\x00\x50",
		"port 0":                       "\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x00",
		"no host":                      "\x05\x01\x00\x05\x01\x00\x01\x00\x00\x00\x00\x00\x50",
		"a closed port":                "\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01" + port(closed),
		"a closed port, SOCKS4":        "\x04\x01" + port(closed) + "\x7f\x00\x00\x01\x00",
		"a closed port, HTTP":          "CONNECT " + closed.String() + " HTTP/1.1\r\n\r\n",
		"a denied address":             "\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x63\x00\x50",
		"a denied name":                "\x05\x01\x00\x05\x01\x00\x03\x0edenied.example\x00\x50",
		"a name that is none":          "\x05\x01\x00\x05\x01\x00\x03\x0cnone.example\x00\x50",
		"a name":                       "\x05\x01\x00\x05\x01\x00\x03\x0dknown.example" + port(to) + "hello",
		"a wrong password":             "\x05\x01\x02\x01\x03ann\x05wrong",
		"a wrong password, HTTP":       "CONNECT " + to.String() + " HTTP/1.0\r\nProxy-Authorization: Basic YW5uOndyb25n\r\n\r\n",
		"BIND":                         "\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50",
		"UDP ASSOCIATE":                "\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00",
		"no request of HTTP":           "CONNECT \r\n\r\n",
		"a plain request":              "GET http://" + closed.String() + "/ HTTP/1.0\r\n\r\n",
		"a long head":                  "CONNECT " + to.String() + " HTTP/1.1\r\nX: " + strings.Repeat("x", 6000) + "\r\n\r\nhello",
	}
	for name, session := range sessions(to) {
		all[name] = session[0] + "hello"
		all[name+", without payload"] = session[0]
	}
	return all
}

// TestMovesAgree: a session that a reactor has begun goes on in a task where a name
// has to be looked up or a password takes its time. Neither what its client does
// meanwhile nor what it has sent ahead gets lost on the way.
func TestMovesAgree(t *testing.T) {
	to := sinkServer(t)
	port := string([]byte{byte(to.Port() >> 8), byte(to.Port())})
	byName := "\x05\x01\x00\x05\x01\x00\x03\x0dknown.example" + port
	block := strings.Repeat("0123456789abcdef", 1<<16)
	for name, v := range map[string]chat{
		"ends at once":            {sent: byName + "hello"},
		"SOCKS4a":                 {sent: "\x04\x01" + port + "\x00\x00\x00\x01me\x00known.example\x00hello"},
		"CONNECT":                 {sent: fmt.Sprintf("CONNECT known.example:%d HTTP/1.1\r\n\r\nhello", to.Port())},
		"a name that is none":     {sent: "\x05\x01\x00\x05\x01\x00\x03\x0cnone.example" + port},
		"a denied name":           {sent: "\x05\x01\x00\x05\x01\x00\x03\x0edenied.example\x00\x50"},
		"a megabyte ahead":        {sent: byName + block},
		"a password":              {sent: "\x05\x01\x02\x01\x03bob\x04slow\x05\x01\x00\x01\x7f\x00\x00\x01" + port + "hello", known: true},
		"a password, and a name":  {sent: "\x05\x01\x02\x01\x03bob\x04slow\x05\x01\x00\x03\x0dknown.example" + port + "hello"},
		"a wrong password, HTTP":  {sent: "CONNECT " + to.String() + " HTTP/1.1\r\nProxy-Authorization: Basic Ym9iOndyb25n\r\n\r\n", known: true},
		"speaks behind the move":  {sent: byName, moved: func(c *net.TCPConn) { _, _ = io.WriteString(c, "later"); _ = c.CloseWrite() }},
		"urgent, behind the move": {sent: byName + "a", moved: func(c *net.TCPConn) { sendUrgent(t, c, "b!"); _, _ = io.WriteString(c, "c"); _ = c.CloseWrite() }},
		"is reset":                {sent: byName + "hello", moved: func(c *net.TCPConn) { _ = c.SetLinger(0); c.Close() }},
	} {
		t.Run(name, func(t *testing.T) {
			want := tellOf(t, "tasks", v)
			got := tellOf(t, "reactors", v)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("a reactor's differs from a task's:\n%s", diff)
			}
		})
	}
}

// sendUrgent sends bytes of which the last one is urgent.
func sendUrgent(t *testing.T, c *net.TCPConn, text string) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		if err := unix.Sendto(int(fd), []byte(text), unix.MSG_OOB, nil); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// slowUsers know one user, whose password takes its time.
type slowUsers struct{ authsvc.Authenticator }

func (slowUsers) Method() authsvc.Method         { return authsvc.MethodPassword }
func (slowUsers) Accepts(kind authsvc.Kind) bool { return kind == authsvc.KindPassword }
func (slowUsers) Authenticate(_ context.Context, a *authsvc.Attempt) (authsvc.Grant, error) {
	if given, ok := a.Credentials.(authsvc.Password); !ok || string(given.User)+":"+string(given.Password) != "bob:slow" {
		return authsvc.Grant{}, authsvc.ErrCredentials
	}
	return authsvc.Grant{Identity: authsvc.Identity{User: "bob", Method: authsvc.MethodPassword}}, nil
}

// chat is one client's conversation with a group.
type chat struct {
	sent  string
	known bool // the names are in the cache
	// moved goes on when a name is looked up, and so the session in a task; nil: the
	// client ends its stream at once.
	moved func(*net.TCPConn)
}

// look is Dialer's Lookup: it waits until the client has gone on.
func (v *chat) look(client *net.TCPConn) func(context.Context, string, resolver.Family) ([]netip.Addr, error) {
	var once sync.Once
	return func(_ context.Context, name string, family resolver.Family) ([]netip.Addr, error) {
		if v.moved != nil {
			once.Do(func() { v.moved(client) })
		}
		return lookedUp(name, family)
	}
}

// tellOf has one driver serve a conversation.
func tellOf(t *testing.T, driver string, v chat) told {
	t.Helper()
	defer func(before string) { driverTested = before }(driverTested)
	driverTested = driver
	g, m := newTestGroup(t, true)
	g.handler.watch.after = patience // nobody has left who shut its side down at once
	policy := *g.Policy()
	var err error
	policy.ACL, err = aclsvc.Compile(aclsvc.Options{DefaultAllow: true, Rules: deniedRules()})
	if err != nil {
		t.Fatal(err)
	}
	users, err := authsvc.NewUsers(authsvc.UsersOptions{User: "ann", Password: "s3cret", Metrics: &m.Auth})
	if err != nil {
		t.Fatal(err)
	}
	policy.Auth = authsvc.NewAdmission(authsvc.AdmissionOptions{
		Authenticators: []authsvc.Authenticator{users, slowUsers{}}, Outcomes: m.Conn.Auth, Refused: m.Auth.Refused,
	})
	client, server := pair(t, listen(t))
	defer client.Close()
	options := dial.Options{ConnectTimeout: patience, Metrics: m.Dial, NoDelay: true, Lookup: v.look(client)}
	if v.known {
		options.Known = func(name string, families []resolver.Family) (answers [2]resolver.Answer, known bool) {
			for i, family := range families {
				answers[i].Family = family
				answers[i].Addrs, answers[i].Err = lookedUp(name, family)
			}
			return answers, true
		}
	}
	policy.Dialer = dial.New(options)
	policy.Relay.Metrics = &m.Relay
	g.SetPolicy(&policy)
	records := make(chan *Record, 16)
	log := NewAccessLog(slog.New(slog.DiscardHandler), m)
	log.Watch(func(r *Record) { records <- r }, func() bool { return false })
	g.recordIn(log)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = log.Serve(ctx) }()

	if reason := g.Admit(server, "test"); reason != "" {
		t.Fatal(reason)
	}
	go func() {
		_, _ = io.WriteString(client, v.sent)
		if v.moved == nil {
			_ = client.CloseWrite()
		}
	}()
	answer, err := io.ReadAll(client)
	if errors.Is(err, net.ErrClosed) {
		answer = nil // whatever it had read before it reset the connection
	} else if err != nil {
		t.Fatal(err)
	}
	awaitIdle(t, g)
	if onReactor := g.nextLane.Load() > 0; onReactor != (driver == "reactors") {
		t.Errorf("served on a reactor: %v, for %s", onReactor, driver)
	}
	cancel()
	<-ended
	close(records)
	heard := told{Answer: unbound(answer, v.sent), Counts: countsOf(m)}
	for r := range records {
		heard.Record += plainRecord(r)
	}
	return heard
}

// deniedRules deny one address and one name.
func deniedRules() []aclsvc.Rule {
	return []aclsvc.Rule{
		{Action: "deny", To: []string{"127.0.0.99"}, Where: "here:1"},
		{Action: "deny", To: []string{"denied.example"}, Where: "here:2"},
	}
}

func lookedUp(name string, family resolver.Family) ([]netip.Addr, error) {
	if name == "known.example" && family == resolver.IPv4 {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	return nil, fmt.Errorf("%w: %s", resolver.ErrNotFound, name)
}

// unbound is an answer without the port that the proxy's own end got by chance.
func unbound(answer []byte, sent string) string {
	i := bytes.Index(answer, []byte("\x7f\x00\x00\x01"))
	switch {
	case i < 2:
	case sent[0] == 4:
		answer[i-2], answer[i-1] = 0, 0
	case len(answer) >= i+6:
		answer[i+4], answer[i+5] = 0, 0
	}
	return string(answer)
}

// plainRecord is a record without what chance and time made of it.
func plainRecord(r *Record) string {
	c := *r
	c.ID, c.Client, c.Local, c.Started, c.Duration = "", netip.AddrPort{}, netip.AddrPort{}, time.Time{}, 0
	text := ""
	for _, a := range c.attrs() {
		if a.Key != "err" {
			text += a.String() + " "
		}
	}
	return fmt.Sprintf("%s failed=%v", text, c.Err != nil)
}

// countsOf are the metrics that count, without those that time.
func countsOf(m *metrics.Registry) []string {
	var text bytes.Buffer
	m.WritePrometheus(&text)
	var counts []string
	for line := range strings.Lines(text.String()) {
		isTime := strings.Contains(line, "_seconds") && !strings.Contains(line, "_count")
		if !strings.HasPrefix(line, "#") && !isTime && !strings.Contains(line, "process_") && !strings.HasPrefix(line, "go_") {
			counts = append(counts, strings.TrimSpace(line))
		}
	}
	slices.Sort(counts)
	return counts
}
