package e2e

import (
	"net"
	"strconv"
	"testing"
)

// One address opened as many connections as there are places, said nothing,
// and kept everybody else out for the time of a handshake, again and again.
// Its oldest ones give way now; who has a tunnel, or shakes hands from another
// address, does not.
func TestSilentClientsOfOneAddressGiveWay(t *testing.T) {
	const places = 40
	echo := echoServer(t, "127.0.0.1:0")
	d := start(t, "", "-m", strconv.Itoa(places))
	before := d.baseline()
	tunnel, code := connect(t, d.address, echo)
	if code != succeeded {
		t.Fatalf("reply %d", code)
	}
	slow := dialProxyFrom(t, d.address, "127.0.0.6")
	send(t, slow, 5)

	silent := make([]net.Conn, 0, 3*places)
	more := func() {
		for range places {
			silent = append(silent, dialProxyFrom(t, d.address, "127.0.0.7"))
		}
	}
	more()
	for range 3 { // the flood goes on meanwhile
		more()
		for range 5 {
			c := dialProxyFrom(t, d.address, "127.0.0.8")
			send(t, c, 5, 1, 0)
			receive(t, c, 2)
			if code := request(t, c, 1, echo); code != succeeded {
				t.Fatalf("an honest client: reply %d", code)
			}
			echoes(t, c, "let in")
			c.Close()
		}
	}
	send(t, slow, 1, 0)
	receive(t, slow, 2)
	if code := request(t, slow, 1, echo); code != succeeded {
		t.Errorf("a slow client: reply %d", code)
	}
	echoes(t, tunnel, "still there")
	if l := d.waitMessage("all places are taken: handshakes that wait for their client give way"); l.text("source") != "127.0.0.7" {
		t.Errorf("the line names %q", l.text("source"))
	}
	if got := d.metric(`cleversocks_connections_refused_total{reason="silent"}`); got == "0" {
		t.Error("nothing counted")
	}
	for _, c := range append(silent, tunnel, slow) {
		c.Close()
	}
	d.backTo(before)
}
