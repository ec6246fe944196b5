package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// tunnelAs is a tunnel of a user from an address of this host, and the reply
// code; nil where that is not 0.
func tunnelAs(t *testing.T, proxy, source, user string, echo netip.AddrPort) (net.Conn, byte) {
	t.Helper()
	c := login(t, proxy, source, user, "right")
	if code := request(t, c, 1, echo); code != 0 {
		c.Close()
		return nil, code
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	return c, 0
}

// Caps hold over all generations, as if there had been no upgrade: those of a
// user's connections and addresses, of a source, and of all. A place is free
// again once the process that had it, three upgrades ago, has let it go.
// (haproxy's global maxconn and nginx's limit_conn count each process alone, and
// users who reload often are surprised by it.)
func TestCapsOverGenerations(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	d := lineageOf(start(t, withAPI(t, `
[auth]
allow_plain_passwords = true
[limits]
max_connections = 7
max_connections_per_ip = 4
[acl]
block_private = false
[[listener]]
address = "127.0.0.1:0"
[[user]]
name = "alice"
password = "right"
max_connections = 3
max_addresses = 2
[[user]]
name = "bob"
password = "right"
`)))
	open := func(source, user string) net.Conn {
		t.Helper()
		c, code := tunnelAs(t, d.address, source, user, echo)
		if code != 0 {
			t.Fatalf("%s from %s: reply %d", user, source, code)
		}
		return c
	}
	refused := func(source, user string) {
		t.Helper()
		if _, code := tunnelAs(t, d.address, source, user, echo); code != 2 {
			t.Errorf("%s from %s: reply %d", user, source, code)
		}
	}
	turnedAway := func(source string) {
		t.Helper()
		if !refusedAtAccept(t, d.address, source) {
			t.Errorf("%s is let in", source)
		}
	}
	first := open("127.0.0.2", "alice")
	d.upgrade()
	open("127.0.0.3", "alice")
	d.upgrade()
	refused("127.0.0.4", "alice") // a third address
	open("127.0.0.3", "alice")
	d.upgrade()
	refused("127.0.0.3", "alice") // a fourth connection
	open("127.0.0.3", "bob")
	open("127.0.0.3", "bob")
	turnedAway("127.0.0.3") // a fifth of the source
	open("127.0.0.5", "bob")
	open("127.0.0.5", "bob")
	turnedAway("127.0.0.6") // an eighth of all
	var users []object
	d.call("GET", "/api/v1/users", nil, &users)
	if users[0]["connections"] != 3.0 {
		t.Errorf("%v", users[0])
	}
	first.Close()
	d.await("the predecessor has ended", 1)
	open("127.0.0.4", "alice") // its place is free, and its address is no more
}

// What an operator sees and does means the processes that drain too: sessions
// are listed with their process, their ids are unique in all generations, kill
// reaches them, and a user who is disabled is out when the command returns.
func TestOperateGenerations(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	users := filepath.Join(t.TempDir(), "users")
	rewrite(t, users, "alice:right\nbob:right\ncarol:right\n")
	path := filepath.Join(t.TempDir(), "access.log")
	d := lineageOf(start(t, withAPI(t, "[auth]\nallow_plain_passwords = true\nusers_file = '"+users+"'\n[acl]\nblock_private = false\n[log]\naccess_output = '"+path+"'\n[[listener]]\naddress = \"127.0.0.1:0\"\n")))
	tunnel := func(user string) net.Conn {
		t.Helper()
		c, code := tunnelAs(t, d.address, "127.0.0.1", user, echo)
		if code != 0 {
			t.Fatalf("reply %d", code)
		}
		return c
	}
	ended := func(what string, c net.Conn) {
		t.Helper()
		if _, err := c.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	var pids []int
	var bobs []net.Conn
	alice := tunnel("alice")
	for range 3 {
		bobs = append(bobs, tunnel("bob"))
		pids = append(pids, d.pid)
		d.upgrade()
	}
	here := tunnel("carol")
	var page struct{ Sessions []object }
	var ids map[string]bool
	var processes map[string]int
	want := map[string]int{fmt.Sprint("alice ", pids[0]): 1, fmt.Sprint("bob ", pids[0]): 1, fmt.Sprint("bob ", pids[1]): 1, fmt.Sprint("bob ", pids[2]): 1, "carol <nil>": 1}
	eventually(t, "all are listed", func() bool { // whose a connection is may be seen a moment after its reply
		page.Sessions = nil // or maps are filled again
		d.call("GET", "/api/v1/sessions", nil, &page)
		ids, processes = map[string]bool{}, map[string]int{}
		for _, s := range page.Sessions {
			ids[fmt.Sprint(s["id"])] = true
			processes[fmt.Sprint(s["user"], " ", s["process"])]++
		}
		return fmt.Sprint(processes) == fmt.Sprint(want)
	})
	if len(ids) != 5 {
		t.Errorf("%v, ids %v", processes, ids)
	}
	for _, s := range page.Sessions {
		if fmt.Sprint(s["process"]) == strconv.Itoa(pids[1]) {
			if status := d.call("DELETE", "/api/v1/sessions/"+fmt.Sprint(s["id"]), nil, nil); status != 200 {
				t.Errorf("status %d", status)
			}
		}
	}
	ended("closed by its id", bobs[1])
	var changed object
	d.call("PATCH", "/api/v1/users/bob", object{"disabled": true}, &changed)
	if changed["closed"] != 2.0 {
		t.Errorf("%v", changed)
	}
	ended("disabled, two generations ago", bobs[0])
	ended("disabled, one generation ago", bobs[2])
	echoes(t, alice, "others go on")
	var closed object
	d.call("DELETE", "/api/v1/sessions?client=127.0.0.1", nil, &closed)
	if closed["closed"] != 2.0 {
		t.Errorf("%v", closed)
	}
	ended("closed by a filter", alice)
	ended("closed by a filter, of now", here)
	eventually(t, "all of the five were revoked, says the log", func() bool {
		return strings.Count(readText(t, path), `"revoked"`) == 5
	})
}

// Who had logged in to the predecessor, and asks for a connection after the
// upgrade, meets what the successor's connections have taken meanwhile; and gets
// it back when they end.
func TestCapsMeetHandshakes(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	d := lineageOf(start(t, "[auth]\nallow_plain_passwords = true\n[acl]\nblock_private = false\n[[listener]]\naddress = \"127.0.0.1:0\"\n"+
		"[[user]]\nname = \"alice\"\npassword = \"right\"\nmax_connections = 1\n"))
	var waiting []net.Conn
	for range 100 {
		waiting = append(waiting, login(t, d.address, "127.0.0.1", "alice", "right"))
	}
	d.upgrade()
	here, code := tunnelAs(t, d.address, "127.0.0.1", "alice", echo)
	if code != 0 {
		t.Fatalf("reply %d", code)
	}
	looks := 0
	next := func() byte {
		if looks++; looks%10 != 0 {
			return 255 // there is one for each tenth look
		}
		c := waiting[0]
		waiting = waiting[1:]
		defer c.Close()
		return request(t, c, 1, echo)
	}
	eventually(t, "the predecessor hears of it", func() bool { return next() == 2 })
	here.Close()
	eventually(t, "the predecessor hears of its end", func() bool { return next() == 0 })
}

// So do the caps of associations and of BINDs, and the rate of a source: each
// upgrade gave a user three associations more, and a source another burst.
func TestCommandCapsOverGenerations(t *testing.T) {
	d := lineageOf(start(t, withAPI(t, `
[limits]
connection_rate = { per_second = 1, burst = 8 }
[udp]
max_associations = 3
max_associations_per_user = 2
[bind]
max_per_user = 1
`)))
	take := func(command byte, want byte) *net.TCPConn {
		t.Helper()
		c := dialProxy(t, d.address)
		send(t, c, 5, 1, 0)
		receive(t, c, 2)
		if code := request(t, c, command, netip.AddrPortFrom(netip.IPv4Unspecified(), 0)); code != want {
			t.Errorf("command %d: reply %d, want %d", command, code, want)
		}
		return c
	}
	first := take(3, succeeded)
	waiting := take(2, succeeded)
	d.upgrade()
	take(3, succeeded)
	take(3, notAllowed) // a third of the source
	take(2, notAllowed) // a second one
	d.upgrade()
	take(3, notAllowed)
	first.Close()
	waiting.Close()
	d.await("the predecessor has ended", 1)
	take(3, succeeded)
	take(2, succeeded)
	past := func() (let int) {
		for let < 9 && !refusedAtAccept(t, d.address, "127.0.0.1") {
			let++
		}
		return let
	}
	past() // all that is left
	began := time.Now()
	d.upgrade()
	if let := past(); let > int(time.Since(began)/time.Second)+1 {
		t.Errorf("%d connections are let in, past the rate and its burst", let)
	}
}

// Who follows the events hears of sessions that end in processes of before, once
// each and with their process, be it the last thing that one does; and of what is
// denied there, which is in the list too.
func TestEventsOfGenerations(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	d := lineageOf(start(t, withAPI(t, "[acl]\nblock_private = false\n[[acl.rule]]\naction = \"deny\"\nports = [9]\n[[listener]]\naddress = \"127.0.0.1:0\"\n")))
	tunnel := func() (c net.Conn, process string) {
		c, _ = connect(t, d.address, echo)
		echoes(t, c, "here")
		return c, fmt.Sprintf(`"process":%d,`, d.pid)
	}
	first, eldest := tunnel()
	d.upgrade()
	last, elder := tunnel()
	late := dialProxy(t, d.address)
	send(t, late, 5, 1, 0)
	receive(t, late, 2)
	d.upgrade()
	next := d.follow()
	closed := func(process string) {
		t.Helper()
		if data := next("closed"); !strings.Contains(data, process) || !strings.Contains(data, `"bytes_in":4,`) || !strings.Contains(data, `"cause":"client_closed"`) {
			t.Errorf("want %s: %s", process, data)
		}
	}
	first.Close()
	closed(eldest)
	if code := request(t, late, 1, netip.AddrPortFrom(echo.Addr(), 9)); code != notAllowed {
		t.Errorf("reply %d", code)
	}
	late.Close()
	if data := next("denied"); !strings.Contains(data, `"rule":"acl.rules[0]"`) {
		t.Errorf("denied: %s", data)
	}
	var denials []object
	if d.call("GET", "/api/v1/denials", nil, &denials); len(denials) != 1 {
		t.Errorf("%v", denials)
	}
	last.Close()
	d.await("the predecessor has ended", 2)
	here, _ := tunnel()
	here.Close()
	closed(elder)
	closed(`"session":{"id":`)
}
