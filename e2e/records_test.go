package e2e

import (
	"testing"
)

// An association has a record for each destination, as it was asked for, with
// what went each way; a refused connection has one too.
func TestRecordsOfDatagramsAndRefusals(t *testing.T) {
	one, two := udpEcho(t, "127.0.0.1:0"), udpEcho(t, "127.0.0.1:0")
	d := start(t, "[limits]\nmax_connections_per_ip = 1\n")
	a, code := associate(t, d.address)
	if code != 0 {
		t.Fatal(code)
	}
	a.echoes("127.0.0.1", one, "first")
	a.echoes("127.0.0.1", one, "again")
	a.echoes("127.0.0.1", two, "second")
	refused := dialProxy(t, d.address)
	if n, err := refused.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes", n)
	}
	r := d.waitLine("msg", "connection refused")
	if r.text("client") != refused.LocalAddr().String() || r.text("reason") != "ip_limit" || r.text("cause") != "refused" {
		t.Errorf("refused: %v", r)
	}
	_ = a.control.Close()
	end := d.waitLine("msg", "connection")
	for target, bytes := range map[string]string{one.String(): "10", two.String(): "6"} {
		r := d.find("datagrams of "+target, func(l line) bool { return l.text("msg") == "datagrams" && l.text("target") == target })
		if r.text("bytes_in") != bytes || r.text("bytes_out") != bytes || r.text("id") != end.text("id") || r.text("host_ip") != target {
			t.Errorf("%v", r)
		}
	}
}
