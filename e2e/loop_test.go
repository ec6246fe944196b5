package e2e

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"
)

// A port forward in front of the proxy led its own connections back to it: the
// address is nobody's that it knows, so no list of own listeners has it. A
// client that asked for it through itself, again and again, took two
// descriptors a round, without a bound.
func TestLoopThroughPortForward(t *testing.T) {
	nft := program(t, "nft", "nftables")
	d := start(t, "")
	rules := "table ip loop { chain out { type nat hook output priority -100; ip daddr 203.0.113.80 tcp dport 8080 dnat to " + d.address + "; }; }\n"
	cmd := exec.Command(nft, "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command(nft, "delete", "table", "ip", "loop").Run() })
	if out, err := exec.Command("ip", "route", "replace", "203.0.113.0/24", "dev", "e2e0").CombinedOutput(); err != nil {
		t.Fatalf("ip: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "route", "del", "203.0.113.0/24", "dev", "e2e0").Run() })

	echo := echoServer(t, "127.0.0.1:0")
	forwarded := netip.MustParseAddrPort("203.0.113.80:8080")
	c, code := connect(t, d.address, forwarded)
	if code != 0 {
		t.Fatalf("reply %d to the port forward itself", code)
	}
	send(t, c, 5, 1, 0)
	receive(t, c, 2)
	if code := request(t, c, 1, echo); code != 2 {
		t.Errorf("the proxy serves itself: reply %d, want 2", code)
	}
	d.find("of the loop", func(l line) bool { return strings.Contains(l.text("err"), "came back to it") })

	// Whoever comes by the port forward from outside is no loop.
	if c, code := connect(t, forwarded.String(), echo); code != 0 {
		t.Errorf("a client by the port forward: reply %d", code)
	} else {
		echoes(t, c, "hello")
	}
}
