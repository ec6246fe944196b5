package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Three replicas are one to their users: caps, addresses, quotas, bans, auth-once,
// kills and who is disabled hold wherever somebody comes.
func TestFleet(t *testing.T) {
	s := startStore(t, true)
	echo := echoServer(t, "127.0.0.1:0")
	all := startFleet(t, s.address, 3)
	t.Run("cap", func(t *testing.T) {
		var open []net.Conn
		for i := range 20 {
			if c, reply := tunnel(t, all[i%3].daemon, "127.0.0.1", "alice", echo); c != nil {
				open = append(open, c)
			} else if reply != notAllowed {
				t.Errorf("reply %d", reply)
			}
		}
		if len(open) != 10 {
			t.Errorf("%d of 20 tunnels, the cap is 10", len(open))
		}
		eventually(t, "everybody shows who has what where", func() bool {
			var users []struct {
				Name  string
				Fleet int `json:"fleet_connections"`
			}
			all[2].call("GET", "/api/v1/users", nil, &users)
			return len(users) == 4 && users[0].Name == "alice" && users[0].Fleet == 10
		})
		if n := all[0].call("DELETE", "/api/v1/sessions?user=alice", nil, nil); n != 200 {
			t.Errorf("status %d", n)
		}
		for _, c := range open {
			over(t, c) // killed on all replicas
		}
		eventually(t, "all of it is free", func() bool { return s.sum("alice") == 0 })
		for range 10 {
			mustTunnel(t, all[1].daemon, "127.0.0.1", "alice", echo)
		}
		if c, _ := tunnel(t, all[2].daemon, "127.0.0.1", "alice", echo); c != nil {
			t.Error("one too many")
		}
	})
	t.Run("disabled", func(t *testing.T) { fleetDisables(t, s, all, echo) })
	t.Run("ban", func(t *testing.T) { fleetBans(t, all) })
	t.Run("once", func(t *testing.T) {
		mustTunnel(t, all[0].daemon, "127.0.0.6", "carol", echo)
		eventually(t, "who has logged in at a need not at b", func() bool {
			c := dialProxyFrom(t, all[1].address, "127.0.0.6")
			defer c.Close()
			send(t, c, 5, 1, 0)
			return receive(t, c, 2)[1] == 0
		})
		if status := all[1].call("DELETE", "/api/v1/whitelist/127.0.0.6", nil, nil); status != 204 {
			t.Errorf("status %d", status)
		}
		for _, r := range all {
			eventually(t, "who is revoked at b needs one everywhere", func() bool {
				c := dialProxyFrom(t, r.address, "127.0.0.6")
				defer c.Close()
				send(t, c, 5, 1, 0)
				return receive(t, c, 2)[1] == 0xff
			})
		}
	})
	t.Run("addresses", func(t *testing.T) {
		mustTunnel(t, all[0].daemon, "127.0.0.6", "carol", echo)
		mustTunnel(t, all[1].daemon, "127.0.0.7", "carol", echo)
		if c, reply := tunnel(t, all[2].daemon, "127.0.0.8", "carol", echo); c != nil || reply != notAllowed {
			t.Errorf("a third address: reply %d", reply)
		}
		mustTunnel(t, all[2].daemon, "127.0.0.6", "carol", echo)
	})
	t.Run("quota", func(t *testing.T) {
		data := strings.Repeat("x", 150_000) // and back: 300 kB
		for i := range 3 {
			echoes(t, mustTunnel(t, all[i].daemon, "127.0.0.1", "bob", echo), data)
		}
		c := mustTunnel(t, all[0].daemon, "127.0.0.1", "bob", echo)
		eventually(t, "they know of each other", func() bool { return quotaLeft(all[0], "bob") < 1<<20-890_000 })
		send(t, c, []byte(data)...)
		eventually(t, "it is used up for all", func() bool {
			c := login(t, all[2].address, "127.0.0.1", "bob", "secret")
			defer c.Close()
			return request(t, c, 1, echo) == notAllowed
		})
	})
	t.Run("command", func(t *testing.T) {
		out, err := exec.Command(binary, "fleet", "--config", all[1].file, "--admin", all[1].admin).CombinedOutput()
		if err != nil || bytes.Count(out, []byte("serving")) != 3 || !bytes.Contains(out, []byte("b *")) {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

func quotaLeft(r *replica, user string) int64 {
	var users []struct {
		Name  string
		Quota *struct{ Remaining int64 }
	}
	r.call("GET", "/api/v1/users", nil, &users)
	for _, u := range users {
		if u.Name == user && u.Quota != nil {
			return u.Quota.Remaining
		}
	}
	return -1
}

// fleetDisables has one replica's settings disable a user, who is then out on
// all.
func fleetDisables(t *testing.T, s *store, all []*replica, echo netip.AddrPort) {
	t.Helper()
	open := mustTunnel(t, all[1].daemon, "127.0.0.1", "dave", echo)
	settings := readText(t, all[0].file) // which names files that the sandbox has
	rewrite(t, all[0].file, strings.Replace(settings, fleetUsers, fleetUsers+"disabled = true\n", 1))
	all[0].signal(syscall.SIGHUP)
	over(t, open)
	for _, r := range all {
		eventually(t, "dave is let in nowhere", func() bool { return !mayLogIn(t, r.address, "dave") })
	}
	rewrite(t, all[0].file, settings)
	all[0].signal(syscall.SIGHUP)
	for _, r := range all {
		eventually(t, "dave is let in again", func() bool { return mayLogIn(t, r.address, "dave") })
	}
}

func mayLogIn(t *testing.T, address, user string) bool {
	t.Helper()
	return tryLogin(t, address, "127.0.0.1", user, "secret")
}

// tryLogin reports whether a password is taken.
func tryLogin(t *testing.T, address, source, user, password string) bool {
	t.Helper()
	c := dialProxyFrom(t, address, source)
	defer c.Close()
	send(t, c, 5, 1, 2)
	if got := receive(t, c, 2); got[1] != 2 {
		t.Fatalf("method %#x", got[1])
	}
	msg := append([]byte{1, byte(len(user))}, user...)
	send(t, c, append(append(msg, byte(len(password))), password...)...)
	return receive(t, c, 2)[1] == 0
}

// banned reports whether an address is closed at accept.
func banned(t *testing.T, address, source string) bool {
	t.Helper()
	dialer := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	c, err := dialer.Dial("tcp", address)
	if err != nil {
		return true // the reset was faster
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	_, _ = c.Write([]byte{5, 1, 2})
	n, err := c.Read(make([]byte, 2))
	return n == 0 && err != nil
}

// fleetBans has an address fail once at each replica, which is a ban on all.
func fleetBans(t *testing.T, all []*replica) {
	t.Helper()
	const bad = "127.0.0.5"
	for i, r := range all {
		if tryLogin(t, r.address, bad, "alice", fmt.Sprint("wrong", i)) {
			t.Fatal("a wrong password is taken")
		}
	}
	var list []struct{ Source, Replica string }
	for _, r := range all {
		eventually(t, "it is banned everywhere", func() bool { return banned(t, r.address, bad) })
		eventually(t, "the list says who banned it", func() bool {
			r.call("GET", "/api/v1/bans", nil, &list)
			return len(list) == 1 && list[0].Source == bad+"/32" && list[0].Replica != ""
		})
	}
	all[2].call("DELETE", "/api/v1/bans/"+bad, nil, nil)
	for _, r := range all {
		eventually(t, "it is banned nowhere", func() bool { return !banned(t, r.address, bad) })
	}
	all[1].call("POST", "/api/v1/bans", object{"source": bad, "duration": "5m"}, nil)
	for _, r := range all {
		eventually(t, "an operator's ban is everywhere", func() bool { return banned(t, r.address, bad) })
	}
	r := all[0]
	eventually(t, "the list names the operator's replica", func() bool {
		r.call("GET", "/api/v1/bans", nil, &list)
		return len(list) == 1 && list[0].Replica == "b"
	})
	out, err := exec.Command(binary, "bans", "--config", r.file, "--admin", r.admin).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte(bad)) {
		t.Errorf("%v\n%s", err, out)
	}
}

// Whatever becomes of the store, nobody is refused for it, the replicas are ready
// and say that they are degraded, once; and the sums are right again as soon as
// it answers.
func TestFleetWithoutItsStore(t *testing.T) {
	t.Parallel()
	s := startStore(t, false)
	echo := echoServer(t, "127.0.0.1:0")
	a := startReplica(t, s.address, "a", fleetUsers, soon)
	b := startReplica(t, s.address, "b", fleetUsers, soon)
	degraded := func(r *replica, want bool) {
		t.Helper()
		eventually(t, fmt.Sprint("ready, degraded: ", want), func() bool {
			status, body := r.get("/readyz")
			if status != 200 {
				t.Errorf("not ready: %s", body)
			}
			return strings.Contains(body, "shared state") == want
		})
	}
	degraded(a, true)
	mustTunnel(t, a.daemon, "127.0.0.1", "alice", echo)
	s.start()
	degraded(a, false)
	degraded(b, false)
	mustTunnel(t, b.daemon, "127.0.0.1", "alice", echo)
	right := func(want int) {
		t.Helper()
		eventually(t, fmt.Sprintf("the store has %d connections", want), func() bool { return s.sum("alice") == want })
	}
	right(2)
	s.signal(syscall.SIGSTOP)
	for i := range 4 {
		mustTunnel(t, []*replica{a, b}[i%2].daemon, "127.0.0.1", "alice", echo)
	}
	degraded(a, true)
	degraded(b, true)
	s.signal(syscall.SIGCONT)
	right(6)
	if _, err := s.ask("FLUSHALL"); err != nil {
		t.Fatal(err)
	}
	right(6)
	s.kill()
	mustTunnel(t, a.daemon, "127.0.0.1", "alice", echo)
	degraded(a, true)
	s.start()
	right(7)
	degraded(a, false)
	lines := strings.Count(b.log(), "the shared state does not answer")
	if outages, _ := strconv.Atoi(b.metric("cleversocks_shared_outages_total")); lines > outages { // three, and more on a busy machine
		t.Errorf("%d lines for %d outages:\n%s", lines, outages, b.log())
	}
	// A replica that dies frees what it held: three of seven are b's.
	_ = b.Cmd.Process.Kill()
	<-b.Exited
	held, killed := 4, time.Now()
	eventually(t, "what b held is free", func() bool {
		if c, _ := tunnel(t, a.daemon, "127.0.0.1", "alice", echo); c != nil {
			held++
		}
		return held == 10
	})
	t.Logf("all that b held is free after %s", time.Since(killed).Round(time.Millisecond))
	whileInTime(t, []*replica{a}, func() string {
		if c, _ := tunnel(t, a.daemon, "127.0.0.1", "alice", echo); c != nil {
			c.Close()
			return "one too many"
		}
		return ""
	})
	if alone := a.metric(`cleversocks_shared_outages_total`); alone == "0" {
		t.Error("no outage is counted")
	}
	if n, err := strconv.ParseFloat(a.metric("cleversocks_shared_up"), 64); err != nil || n != 1 {
		t.Errorf("up: %v %v", n, err)
	}
}
