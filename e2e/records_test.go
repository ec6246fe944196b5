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
	if out, err := curl(t, "--proxy", "socks5h://"+d.address, "http://"+one.String()); err == nil {
		t.Errorf("a second connection: %q", out)
	}
	r := d.waitLine("msg", "connection refused")
	if r.text("client_ip") != "127.0.0.1" || r.text("reason") != "ip_limit" || r.text("cause") != "refused" {
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
