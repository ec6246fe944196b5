package e2e

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// A user who is disabled by a reload, and one whose valid_until passes, are cut
// off at once though reload.revoke is off; the tunnels of others stay open.
func TestUsersLapse(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	file := writeFile(t, "c.toml", "")
	settings := func(disabled bool, until time.Time) string {
		text := "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[auth]\nallow_plain_passwords = true\n[user_defaults]\nmax_addresses = 1\n"
		text += "[[user]]\nname = \"stays\"\npassword = \"x\"\nhours = [\"daily 00:00-24:00\"]\n"
		text += fmt.Sprintf("[[user]]\nname = \"off\"\npassword = \"x\"\ndisabled = %v\n", disabled)
		return text + fmt.Sprintf("[[user]]\nname = \"over\"\npassword = \"x\"\nvalid_until = %s\n", until.Format(time.RFC3339))
	}
	rewrite(t, file, settings(false, time.Now().Add(time.Hour)))
	d := startProgram(t, "--config", file, "--log-format", "json")
	open := func(name string, to netip.AddrPort) *net.TCPConn {
		c := login(t, d.address, "127.0.0.5", name, "x")
		if code := request(t, c, 1, to); code != 0 {
			t.Fatalf("%s: reply %d", name, code)
		}
		echoes(t, c, "hello")
		return c
	}
	waits := func(name string) *net.TCPConn {
		c := login(t, d.address, "127.0.0.5", name, "x")
		if code := request(t, c, 2, netip.MustParseAddrPort("127.0.0.1:0")); code != 0 {
			t.Fatalf("%s waits for a peer: reply %d", name, code)
		}
		return c
	}
	stays, off, over := open("stays", echo), open("off", echo), open("over", echo)
	// A BIND that waits for its peer kept its port open, up to bind.accept_timeout.
	offWaits, overWaits := waits("off"), waits("over")
	if code := request(t, login(t, d.address, "127.0.0.6", "stays", "x"), 1, echo); code != 2 {
		t.Errorf("a second address: reply %d, want 2", code)
	}
	rewrite(t, file, settings(true, time.Now().Add(2*time.Second)))
	d.signal(syscall.SIGHUP)
	for name, want := range map[string]struct {
		c    *net.TCPConn
		rule string
	}{"off": {off, "disabled"}, "over": {over, "no_longer_valid"}} {
		if _, err := want.c.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s goes on", name)
		}
		said := d.find("that revokes "+name, func(l line) bool { return l["msg"] == "session revoked" && l["user"] == name })
		if said.text("rule") != want.rule {
			t.Errorf("%v", said)
		}
		record := d.find("that records "+name, func(l line) bool { return l["msg"] == "connection" && l["user"] == name })
		if record.text("cause") != "revoked" {
			t.Errorf("%v", record)
		}
	}
	for name, c := range map[string]*net.TCPConn{"off": offWaits, "over": overWaits} {
		if second, err := io.ReadAll(c); err != nil || len(second) != 10 || second[1] == 0 {
			t.Errorf("the BIND of %s is told % x, %v", name, second, err)
		}
		record := d.find("that records the BIND of "+name, func(l line) bool { return l["msg"] == "connection" && l["user"] == name && l["command"] == "bind" })
		if record.text("cause") != "revoked" {
			t.Errorf("%v", record)
		}
	}
	echoes(t, stays, "still here")
}
