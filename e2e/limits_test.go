package e2e

import (
	"net"
	"testing"
)

// reached waits for the line that tells of a limit.
func (d *daemon) reached(limit string) line {
	d.t.Helper()
	return d.find("about "+limit, func(l line) bool { return l.text("msg") == "limit reached" && l.text("limit") == limit })
}

// A user with too many BINDs, and clients who take all places of the admin
// endpoint, were turned away without a line at any level.
func TestSmallLimitsAreTold(t *testing.T) {
	d := start(t, "[bind]\nmax_per_user = 1\n")
	if _, code, _ := askBind(t, d.address, anyone); code != succeeded {
		t.Fatalf("first reply %d", code)
	}
	if _, code, _ := askBind(t, d.address, anyone); code != notAllowed {
		t.Fatalf("a BIND too many: %d", code)
	}
	if l := d.reached("bind.max_per_user"); l.text("figure") != "1" || l.text("level") != "WARN" {
		t.Errorf("logged %v", l)
	}
	for range 40 {
		c, err := net.Dial("tcp", d.admin)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if l := d.reached("connections to the admin endpoint"); l.text("figure") != "32" {
		t.Errorf("logged %v", l)
	}
	if n := d.metric(`cleversocks_limits_reached_total{limit="admin_connections"}`); n == "0" {
		t.Error("not counted")
	}
}
