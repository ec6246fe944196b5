package conn

import (
	"net"
	"path/filepath"
	"testing"
	"time"
)

// unixPair is a connection over a unix socket: a client, and our end.
func unixPair(t *testing.T) (client, ours *net.UnixConn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialed, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialed.Close(); accepted.Close() })
	return dialed.(*net.UnixConn), accepted.(*net.UnixConn)
}

// A client on a unix socket that left during a dial, and had sent something ahead,
// was waited for until the dial's time was up: only TCP's own state was asked.
func TestWatchOverUnix(t *testing.T) {
	type wrapped struct{ net.Conn } // as TLS does
	for _, tt := range []struct {
		name  string
		ahead string
		leave func(*net.UnixConn)
		gone  bool
		inTLS bool // the same, of a connection that is wrapped
	}{
		{"closed", "", func(c *net.UnixConn) { c.Close() }, true, true},
		{"closed, with something ahead", "GET /", func(c *net.UnixConn) { c.Close() }, true, true},
		{"half-closed, with something ahead", "GET /", func(c *net.UnixConn) { _ = c.CloseWrite() }, false, true},
		{"there", "GET /", func(*net.UnixConn) {}, false, false},
	} {
		for _, inTLS := range []bool{false, true} {
			client, ours := unixPair(t)
			if _, err := client.Write([]byte(tt.ahead)); err != nil {
				t.Fatal(err)
			}
			tt.leave(client)
			conn, want := net.Conn(ours), tt.gone
			if inTLS {
				conn, want = netConn{wrapped{ours}, ours}, tt.inTLS
			}
			until := time.Now().Add(patience)
			if !want {
				until = time.Now().Add(20 * time.Millisecond)
			}
			if err := ours.SetReadDeadline(until); err != nil {
				t.Fatal(err)
			}
			if gone := clientGone(conn, tt.ahead != ""); gone != want {
				t.Errorf("%s, wrapped %v: gone %v", tt.name, inTLS, gone)
			}
		}
	}
}

// netConn is a conn that wraps another.
type netConn struct {
	net.Conn
	below net.Conn
}

func (c netConn) NetConn() net.Conn { return c.below }
