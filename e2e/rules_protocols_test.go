package e2e

import (
	"bufio"
	"net/netip"
	"syscall"
	"testing"
)

// One set of rules for every protocol, and for associations that are there
// when it changes.
func TestRulesHoldForEveryProtocol(t *testing.T) {
	allowed, denied := udpEcho(t, "127.0.0.1:0"), udpEcho(t, "127.0.0.2:0")
	const admin = "[admin]\naddress = \"127.0.0.1:0\"\n"
	listener := "[[listener]]\naddress = \"127.0.0.1:" + freePort(t) + "\"\n"
	rule := func(to string) string { return "[[acl.rule]]\naction = \"deny\"\nto = [\"" + to + "\"]\n" }
	const open = "[acl]\nblock_private = false\n"
	config := writeFile(t, "c.toml", listener+open+rule("127.0.0.2")+admin)
	d := startProgram(t, "--config", config, "--log-format", "json")

	a := mustAssociate(t, d.address)
	a.send(append(header(0, "127.0.0.2", denied.Port()), "denied"...))
	a.echoes("127.0.0.1", allowed, "allowed")
	c := dialProxy(t, d.address)
	if code, _ := socks4Request(t, c, 1, denied); code != 91 {
		t.Errorf("SOCKS4: %d", code)
	}
	for _, request := range []string{"CONNECT 127.0.0.2:80 HTTP/1.1\r\nHost: x\r\n\r\n", "GET http://127.0.0.2/ HTTP/1.1\r\nHost: x\r\n\r\n"} {
		c := dialProxy(t, d.address)
		if status, _, _ := httpAnswer(t, c, bufio.NewReader(c), "GET", request); status != 403 {
			t.Errorf("%.10q: %d", request, status)
		}
	}
	_, _, at := askBind(t, d.address, anyone)
	peer, err := connectFrom(t, "127.0.0.2", at)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := peer.Read(make([]byte, 1)); err == nil {
		t.Errorf("a denied peer reads %d bytes", n)
	}

	rewrite(t, config, listener+open+rule("127.0.0.1")+admin)
	d.signal(syscall.SIGHUP)
	d.waitLine("generation", "2")
	a.send(append(header(0, "127.0.0.1", allowed.Port()), "denied now"...))
	a.echoes("127.0.0.2", denied, "allowed now")

	rewrite(t, config, listener+open+"[[acl.rule]]\naction = \"deny\"\ncommands = [\"udp\", \"bind\"]\n"+admin)
	d.signal(syscall.SIGHUP)
	d.waitLine("generation", "3")
	if _, code := associate(t, d.address); code != notAllowed {
		t.Errorf("UDP denied altogether: reply %d", code)
	}
	if _, code, _ := askBind(t, d.address, netip.MustParseAddr("127.0.0.1")); code != notAllowed {
		t.Errorf("BIND denied altogether: reply %d", code)
	}
}
