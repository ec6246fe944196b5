package e2e

import (
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// TestMultipathClient: a listening socket of systemd's may speak Multipath TCP
// (SocketProtocol=mptcp), and so may a client. Neither is a socket like others: it
// cannot be spliced everywhere, and has fewer options.
func TestMultipathClient(t *testing.T) {
	file, address := listening(t) // Go's listeners speak it
	echo := echoServer(t, "127.0.0.1:0")
	config := writeFile(t, "c.toml", "[[listener]]\naddress = \"systemd:plain\"\n[admin]\naddress = \"127.0.0.1:0\"\n")
	d := inheriting(t, "plain", []*os.File{file}, "--config", config, "--log-format", "json")
	var dialer net.Dialer
	dialer.SetMultipathTCP(true)
	conn, err := dialer.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	c := conn.(*net.TCPConn)
	defer c.Close()
	if multipath, err := c.MultipathTCP(); err != nil || !multipath {
		t.Logf("this kernel has plain TCP alone: %v", err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	send(t, c, 5, 1, 0)
	receive(t, c, 2)
	if code := request(t, c, 1, echo); code != succeeded {
		t.Fatalf("reply %d", code)
	}
	go func() {
		_, _ = io.Copy(c, bigBody())
		_ = c.CloseWrite()
	}()
	if got := sum(c); got != bigSum() {
		t.Errorf("%s came back, want %s", got, bigSum())
	}
	if r := d.record(echo.String()); r.text("cause") != "client_closed" {
		t.Errorf("recorded as %v", r)
	}
}
