package e2e

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
)

const stickySettings = `
[auth]
allow_plain_passwords = true
user_parameters = "+"
[[user]]
name = "alice"
password = "secret"
[egress]
address = ["198.51.100.0/25", "198.51.100.128/25"]
`

// whoServer tells each client the address that it comes from.
func whoServer(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprintln(c, host)
			c.Close()
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String())
}

// A session leaves from the same address at every replica, without a store, and
// other sessions from others; who names none leaves from any.
func TestStickyExits(t *testing.T) {
	who := whoServer(t)
	a, b := start(t, stickySettings), start(t, stickySettings)
	exit := func(d *daemon, user string) string {
		c := mustTunnel(t, d, "127.0.0.1", user, who)
		defer c.Close()
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(line)
	}
	seen := make(map[string]bool)
	for i := range 8 {
		user := fmt.Sprintf("alice+session-%d", i)
		first := exit(a, user)
		seen[first] = true
		for _, d := range []*daemon{a, b, a, b} {
			if now := exit(d, user); now != first || !strings.HasPrefix(now, "198.51.100.") {
				t.Errorf("%s leaves from %s, and then from %s", user, first, now)
			}
		}
	}
	if len(seen) < 5 {
		t.Errorf("eight sessions leave from %d addresses", len(seen))
	}
	anywhere := make(map[string]bool)
	for range 8 {
		anywhere[exit(a, "alice")] = true
	}
	if len(anywhere) < 3 {
		t.Errorf("without a session there are %d addresses", len(anywhere))
	}
	if r := a.record(who.String()); r.text("user") != "alice" {
		t.Errorf("the record names %s", r.text("user"))
	}
	if tryLogin(t, a.address, "127.0.0.1", "alice+country-us", "secret") {
		t.Error("a parameter that there is none of is taken")
	}
}
