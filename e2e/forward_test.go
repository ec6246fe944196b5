package e2e

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestForwardRules: the first rule that matches says where a connection goes;
// the ACL judges what was asked for and what a rule makes of it.
func TestForwardRules(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	private := echoServer(t, "127.0.0.2:0")
	ns := unbound(t, "web.test. 60 IN A 127.0.0.1", "denied.test. 60 IN A 127.0.0.1", "local.test. 60 IN A 127.0.0.2", "self.test. 60 IN A 127.0.0.1")
	proxy, _ := microsocks(t)
	d := start(t, resolverConfig("", "udp://"+ns.udp)+fmt.Sprintf(`
[acl]
block_private = false
[[acl.rule]]
action = "deny"
to = ["denied.test", "127.0.0.2"]
[[upstream]]
name = "exit"
via = ["socks5://%[1]s"]
[[upstream]]
name = "local"
via = ["socks5://%[1]s"]
resolve = "local"
[[forward]]
to = ["*.onion"]
upstream = "reject"
[[forward]]
to = ["rewritten.test"]
ports = [80]
upstream = "direct"
rewrite = "web.test:%[2]d"
[[forward]]
to = ["smuggled.test"]
upstream = "direct"
rewrite = "127.0.0.2:%[3]d"
[[forward]]
to = ["denied.test", "127.0.0.2"]
upstream = "exit"
rewrite = "127.0.0.1:%[2]d"
[[forward]]
to = ["local.test", "self.test"]
upstream = "local"
[[forward]]
to = ["literal.test"]
upstream = "exit"
rewrite = "127.0.0.1:0"
`, proxy, echo.Port(), private.Port()))
	own := netip.MustParseAddrPort(d.address).Port()
	for name, tt := range map[string]struct {
		host           string
		port           uint16
		reply          byte
		rule, upstream string
	}{
		"no rule":                         {"web.test", echo.Port(), succeeded, "default", "<nil>"},
		"reject":                          {"x.onion", 80, notAllowed, "forward[0]", "<nil>"},
		"rewritten, direct":               {"rewritten.test", 80, succeeded, "default", "<nil>"},
		"rewritten, another port":         {"rewritten.test", 81, hostUnreachable, "", "<nil>"},
		"rewritten to what is denied":     {"smuggled.test", 80, notAllowed, "acl.rules[0]", "<nil>"},
		"what is denied, rewritten":       {"denied.test", 80, notAllowed, "acl.rules[0]", "<nil>"},
		"a denied address, rewritten":     {"127.0.0.2", 80, notAllowed, "acl.rules[0]", "<nil>"},
		"resolved here, a denied address": {"local.test", private.Port(), notAllowed, "acl.rules[0]", "local"},
		"resolved here, our own listener": {"self.test", own, notAllowed, "own_listener", "local"},
		"resolved here":                   {"self.test", echo.Port(), succeeded, "default", "local"},
		"host rewritten, port kept":       {"literal.test", echo.Port(), succeeded, "default", "exit"},
		"the upstream finds nobody there": {"literal.test", 1, refused, "default", "exit"},
		"rewritten to our own listener":   {"literal.test", own, notAllowed, "own_listener", "exit"},
		"a name that does not exist":      {"nothing.test", 80, hostUnreachable, "", "<nil>"},
	} {
		t.Run(name, func(t *testing.T) {
			c, reply := connectName(t, d.address, tt.host, tt.port)
			if reply != tt.reply {
				t.Errorf("reply %d, want %d", reply, tt.reply)
			}
			if reply == succeeded {
				echoes(t, c, "there and back")
			}
			c.Close()
			got := d.record(fmt.Sprintf("%s:%d", tt.host, tt.port))
			if tt.rule != "" && got.text("rule") != tt.rule || got.text("upstream") != tt.upstream {
				t.Errorf("rule %s, upstream %s", got.text("rule"), got.text("upstream"))
			}
		})
	}
}

// sourceServer tells each client its address.
func sourceServer(t *testing.T) netip.AddrPort {
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
			_, _ = io.WriteString(c, host)
			c.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// TestEgress: addresses by default, by user and by rule; of a prefix, each
// connection has one of its own; an interface and a mark.
func TestEgress(t *testing.T) {
	target := sourceServer(t)
	d := start(t, fmt.Sprintf(`
[auth]
allow_plain_passwords = true
required = false
[[user]]
name = "alice"
password = "x"
egress = ["127.0.3.1"]
[egress]
address = ["127.0.2.1", "127.0.2.2"]
[[forward]]
to = ["127.0.0.1"]
ports = [%d]
users = ["bob"]
upstream = "direct"
egress = { address = ["127.0.4.0/24"] }
[[user]]
name = "bob"
password = "x"
`, target.Port()))
	from := func(login string) string {
		t.Helper()
		return mustCurl(t, "--proxy", "socks5h://"+login+d.address, "telnet://"+target.String())
	}
	seen := make(map[string]bool)
	for range 40 {
		seen[from("")] = true
	}
	if len(seen) != 2 || !seen["127.0.2.1"] || !seen["127.0.2.2"] {
		t.Errorf("by default: %v", seen)
	}
	if got := from("alice:x@"); got != "127.0.3.1" {
		t.Errorf("the user's: %s", got)
	}
	clear(seen)
	for range 8 {
		got := from("bob:x@")
		if !strings.HasPrefix(got, "127.0.4.") {
			t.Fatalf("the rule's: %s", got)
		}
		seen[got] = true
	}
	if len(seen) < 2 {
		t.Errorf("of a prefix always the same: %v", seen)
	}

	// A mark can be seen by a filter, an interface by what it cannot reach.
	program(t, "nft", "nftables")
	inNet(t, "nft add table inet marks")
	t.Cleanup(func() { inNet(t, "nft delete table inet marks") })
	inNet(t, "nft add chain inet marks out { type filter hook output priority 0 ; }")
	inNet(t, fmt.Sprintf("nft add rule inet marks out tcp dport %d meta mark != 77 reject with tcp reset", target.Port()))
	marked := start(t, "[egress]\nmark = 77\n")
	if got := mustCurl(t, "--proxy", "socks5h://"+marked.address, "telnet://"+target.String()); got != "127.0.0.1" {
		t.Errorf("marked: %q", got)
	}
	if _, reply := connect(t, d.address, target); reply != refused {
		t.Errorf("not marked: reply %d", reply)
	}
	bound := start(t, "[limits]\nconnect_timeout = \"1s\"\n[egress]\ninterface = \"e2e1\"\n")
	echo := echoServer(t, "127.0.0.1:0")
	if _, reply := connect(t, bound.address, echo); reply == succeeded {
		t.Error("loopback was reached by another interface")
	}
	if _, reply := connect(t, start(t, "[egress]\ninterface = \"lo\"\n").address, echo); reply != succeeded {
		t.Errorf("by loopback: reply %d", reply)
	}
}

// TestDatagramsThroughAnUpstream: UDP ASSOCIATE by way of dante; where the
// upstream carries none, it is refused.
func TestDatagramsThroughAnUpstream(t *testing.T) {
	to := udpEcho(t, "127.0.0.1:0")
	forward := "[[upstream]]\nname = \"exit\"\nvia = [\"%s\"]\n[[forward]]\nupstream = \"exit\"\n"
	through := "socks5://" + dante(t)
	d := start(t, fmt.Sprintf(forward, through))
	a := mustAssociate(t, d.address)
	a.echoes(to.Addr().String(), to, "ping")
	active := `cleversocks_upstream_active{upstream="exit",member="` + through + `"}`
	if got := d.settles(active, "1"); got != "1" {
		t.Errorf("active: %q", got)
	}
	a.control.Close()
	eventually(t, "the upstream's place is given back", func() bool { return d.metric(active) == "0" })
	d.find("of the association", func(l line) bool { return l.text("command") == "udp" && l.text("upstream") == "exit" })

	small, _ := microsocks(t)
	for _, via := range []string{"http://" + small, "socks5://" + small} { // microsocks has no UDP
		d := start(t, fmt.Sprintf(forward, via))
		if _, reply := associate(t, d.address); reply == succeeded {
			t.Errorf("%s: an association that carries nothing", via)
		}
	}
}

// TestRejectRevokes: with reload.revoke, a tunnel that a new rule rejects ends.
func TestRejectRevokes(t *testing.T) {
	echo, other := echoServer(t, "127.0.0.1:0"), echoServer(t, "127.0.0.1:0")
	const text = "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"\"\n[reload]\nrevoke = true\n"
	config := writeFile(t, "c.toml", text)
	d := startCommand(t, exec.Command(binary, "--config", config, "--log-format", "json"))
	gone, _ := connect(t, d.address, echo)
	stays, _ := connect(t, d.address, other)
	echoes(t, gone, "before")
	rewrite(t, config, text+fmt.Sprintf("[[forward]]\nports = [%d]\nupstream = \"reject\"\n", echo.Port()))
	d.signal(syscall.SIGHUP)
	if got := d.record(echo.String()); got.text("cause") != "revoked" {
		t.Errorf("cause %s", got.text("cause"))
	}
	echoes(t, stays, "after")
	if _, reply := connect(t, d.address, echo); reply != notAllowed {
		t.Errorf("reply %d", reply)
	}
}
