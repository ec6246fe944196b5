package conn

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"

	"cleversocks/authsvc"
)

// A user with two connections allowed held a hundred of plain requests: each
// counted while a request was under way, and none in between.
func TestKeptConnectionsCountForTheirUser(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	t.Cleanup(web.Close)
	g, m := newTestGroup(t, true)
	alice := account("alice")
	alice.MaxConnections = 2
	policy := *g.Policy()
	policy.Auth = newPolicy(t, authsvc.AdmissionOptions{Required: true}, []authsvc.UserEntry{alice}).Auth
	g.SetPolicy(&policy)
	records := NewAccessLog(slog.New(slog.DiscardHandler), m)
	g.recordIn(records)
	listener := listen(t)
	type client struct {
		conn *net.TCPConn
		r    *bufio.Reader
	}
	ask := func(c client, method string) int {
		t.Helper()
		fmt.Fprintf(c.conn, "%s %s/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic YWxpY2U6eA==\r\n\r\n", method, web.URL)
		res, err := http.ReadResponse(c.r, &http.Request{Method: method})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		return res.StatusCode
	}
	open := func() client {
		conn, server := pair(t, listener)
		t.Cleanup(func() { conn.Close() })
		if reason := g.Admit(server, "test"); reason != "" {
			t.Fatal(reason)
		}
		return client{conn, bufio.NewReader(conn)}
	}
	first, second, third := open(), open(), open()
	for range 3 { // of one connection, as many requests as it likes
		if a, b := ask(first, "GET"), ask(second, "GET"); a != 200 || b != 200 {
			t.Fatalf("%d and %d", a, b)
		}
	}
	if status := ask(third, "GET"); status != 403 {
		t.Errorf("a third connection: %d", status)
	}
	first.conn.Close()
	for range 7 {
		await(t, records)
	}
	eventuallyIn(t, func() bool { return ask(third, "HEAD") == 200 })
	if r := await(t, records); r.Method != "HEAD" && r.Cause == "" {
		t.Errorf("recorded %+v", r)
	}
}

// eventuallyIn waits until ok.
func eventuallyIn(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatal("it never came to be")
		}
		runtime.Gosched()
	}
}
