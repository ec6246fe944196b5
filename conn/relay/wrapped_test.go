package relay

import (
	"net"
	"testing"
)

// wrappedConn is a layer above a conn, as TLS and Kerberos' protection are.
type wrappedConn struct{ net.Conn }

func (w wrappedConn) NetConn() net.Conn { return w.Conn }

// TestSocketBelowTwoLayers: a SOCKS5 client's tickets protect its bytes inside of
// TLS, and a server's reset did not reach it: the socket was looked for below one
// layer alone.
func TestSocketBelowTwoLayers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, conn := range []net.Conn{c, wrappedConn{c}, wrappedConn{wrappedConn{c}}} {
		var e end
		e.init(conn)
		if e.tcp != c || !e.isTCP {
			t.Errorf("%T: the socket below it is not found", conn)
		}
	}
}
