package e2e

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"syscall"
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

// exit is the address that a user's connection leaves from.
func exit(t *testing.T, d *daemon, user string, source netip.AddrPort) string {
	t.Helper()
	c := mustTunnel(t, d, "127.0.0.1", user, source)
	defer c.Close()
	address, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(address)
}

// A session leaves from the same address at every replica, without a store, and
// other sessions from others; who names none leaves from any.
func TestStickyExits(t *testing.T) {
	who := sourceServer(t)
	a, b := start(t, stickySettings), start(t, stickySettings)
	seen := make(map[string]bool)
	for i := range 8 {
		user := fmt.Sprintf("alice+session-%d", i)
		first := exit(t, a, user, who)
		seen[first] = true
		for _, d := range []*daemon{a, b, a, b} {
			if now := exit(t, d, user, who); now != first || !strings.HasPrefix(now, "198.51.100.") {
				t.Errorf("%s leaves from %s, and then from %s", user, first, now)
			}
		}
	}
	if len(seen) < 5 {
		t.Errorf("eight sessions leave from %d addresses", len(seen))
	}
	anywhere := make(map[string]bool)
	for range 8 {
		anywhere[exit(t, a, "alice", who)] = true
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

// A session takes the same member of a pool at every replica; when a member goes,
// its sessions take another, the same at every replica, and no others move.
func TestStickyMembers(t *testing.T) {
	who := sourceServer(t)
	settings := "[auth]\nallow_plain_passwords = true\nuser_parameters = \"+\"\n[[user]]\nname = \"alice\"\npassword = \"secret\"\n" +
		"[[forward]]\nupstream = \"exits\"\n[[upstream]]\nname = \"exits\"\nmembers = ["
	members := make(map[string]*daemon)
	for i := range 3 {
		address := fmt.Sprintf("127.0.10.%d", i+1)
		members[address] = start(t, "[egress]\naddress = [\""+address+"\"]\n")
		settings += fmt.Sprintf("\"socks5://%s\", ", members[address].address)
	}
	settings += "]\n"
	a, b := start(t, settings), start(t, settings)
	const sessions = 48 // by chance some member has none: once in 10^8
	before := make([]string, sessions)
	user := func(i int) string { return fmt.Sprintf("alice+session-%d", i) }
	of := make(map[string]int)
	for i := range sessions {
		before[i] = exit(t, a, user(i), who)
		of[before[i]]++
		if other := exit(t, b, user(i), who); other != before[i] {
			t.Errorf("session %d leaves by %s at one replica, and by %s at another", i, before[i], other)
		}
	}
	if len(of) != 3 {
		t.Fatalf("the sessions leave by %v", of)
	}
	gone := before[0]
	members[gone].signal(syscall.SIGTERM)
	members[gone].exitCode()
	for i := range sessions {
		at, other := exit(t, a, user(i), who), exit(t, b, user(i), who)
		if at != other || at == gone || before[i] != gone && at != before[i] {
			t.Errorf("session %d left by %s, and leaves by %s and %s: only those of %s may move", i, before[i], at, other, gone)
		}
	}
}
