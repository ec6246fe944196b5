package e2e

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Many edits at once, by API and command, are all made, one after the other.
func TestManyEditsAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	d := withUsers(t, path, "# none yet\nfirst:"+cheapHash(t, "x")+"\n", noBans)
	hash := cheapHash(t, "y")
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if status, answer := d.ask("POST", "/api/v1/users", object{"name": fmt.Sprintf("user%d", i), "password_hash": hash}); status != 200 {
				t.Errorf("%d %s", status, answer)
			}
		})
	}
	all.Wait()
	if n := strings.Count(fileHas(t, path), hash); n != 20 || !letsIn(t, d.address, "user7", "y") {
		t.Errorf("%d of 20 are in the file", n)
	}
}

// One user of 10,000 is changed again and again while new connections of the
// others come all the time and tunnels of others are open: not one fails.
func TestOneUserOfTenThousand(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	var users strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&users, "user%d:password %d\n", i, i)
	}
	path := filepath.Join(t.TempDir(), "users")
	d := withUsers(t, path, users.String(), "allow_plain_passwords = true\n"+noBans)
	tunnels := make([]*net.TCPConn, 50)
	for i := range tunnels {
		tunnels[i] = open(t, d, fmt.Sprintf("user%d", i), fmt.Sprintf("password %d", i), echo)
	}
	stop := make(chan struct{})
	var served, lost atomic.Int64
	var all sync.WaitGroup
	pace := time.NewTicker(2 * time.Millisecond) // 500 a second, or as many as the machine can
	defer pace.Stop()
	for worker := range 16 {
		all.Go(func() {
			for i := worker; ; i += 16 {
				select {
				case <-stop:
					return
				case <-pace.C:
				}
				n := 100 + i%9000
				if err := roundTrip(d.address, fmt.Sprintf("user%d", n), fmt.Sprintf("password %d", n), echo); err != nil {
					lost.Add(1)
					t.Log(err)
				}
				served.Add(1)
			}
		})
	}
	edits, begun := 0, time.Now()
	for ; edits < 5 || served.Load() < 500; edits++ {
		if status, answer := d.ask("PATCH", "/api/v1/users/user9999", object{"disabled": edits%2 == 0, "max_connections": edits}); status != 200 {
			t.Fatalf("%d %s", status, answer)
		}
		if time.Since(begun) > 6*patience {
			t.Fatalf("%d edits and %d connections only", edits, served.Load())
		}
	}
	close(stop)
	all.Wait()
	t.Logf("%d edits and %d connections in %s", edits, served.Load(), time.Since(begun))
	if lost.Load() > 0 {
		t.Errorf("%d of %d connections were lost", lost.Load(), served.Load())
	}
	for _, c := range tunnels {
		echoes(t, c, "still here")
	}
	if got := fileHas(t, path); !strings.HasPrefix(got, strings.TrimSuffix(users.String(), "user9999:password 9999\n")) {
		t.Error("the lines of others have changed")
	}
}

// roundTrip logs in, connects, and gets back what it sends.
func roundTrip(proxy, user, password string, to netip.AddrPort) error {
	c, err := net.DialTimeout("tcp", proxy, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	msg := append([]byte{5, 1, 2, 1, byte(len(user))}, user...)
	msg = append(append(msg, byte(len(password))), password...)
	ip := to.Addr().As4()
	msg = append(append(msg, 5, 1, 0, 1), ip[:]...)
	msg = append(msg, byte(to.Port()>>8), byte(to.Port()), 'h', 'i')
	if _, err := c.Write(msg); err != nil {
		return err
	}
	answer := make([]byte, 2+2+10+2)
	if _, err := io.ReadFull(c, answer); err != nil {
		return fmt.Errorf("%s: %w in %x", user, err, answer)
	}
	if answer[3] != 0 || answer[5] != 0 || string(answer[14:]) != "hi" {
		return fmt.Errorf("%s: %x", user, answer)
	}
	return nil
}

// A list of users is added by one command: all of them or none, passwords never on
// the command line and never at the daemon, and what was there stays. A panel's
// users had to be typed in one by one (marzban#117, 3x-ui#1213).
func TestManyUsersAtOnce(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	path := filepath.Join(t.TempDir(), "users")
	head := "# the office\nold:" + cheapHash(t, "x") + "\n"
	d := withUsers(t, path, head, noBans)
	list := "# from the directory\n\n" + "ann:secret one\n" + "ben:" + cheapHash(t, "b") + ":max_connections = 1, quota = { bytes = \"1GiB\" }, note = \"hi\"\n" +
		`{"name":"cay","password":"secret: two","hours":["mon-sun 00:00-24:00"],"valid_until":"2099-01-01T00:00:00Z"}` + "\r\n" + "off:!" + cheapHash(t, "o") + "\n"
	out := d.mustUser(list, "import")
	if !strings.Contains(out, "added              4") {
		t.Errorf("import says %s", out)
	}
	for user, password := range map[string]string{"old": "x", "ann": "secret one", "ben": "b", "cay": "secret: two"} {
		if !letsIn(t, d.address, user, password) {
			t.Errorf("%s is not let in", user)
		}
	}
	if got := fileHas(t, path); !strings.HasPrefix(got, head) || strings.Count(got, "\n") != 6 || strings.Contains(got, "secret") || letsIn(t, d.address, "off", "o") {
		t.Errorf("the file: %s", got)
	}
	ben := open(t, d, "ben", "b", echo)
	before := fileHas(t, path)
	for name, tt := range map[string]struct {
		input string
		args  []string
		says  string
	}{
		"there already": {"new:pass word\nben:b\n", nil, `user "ben" is there already`},
		"twice":         {"new:pass word\nnew:other\n", nil, `user "new" is users[0] too`},
		"no colon":      {"new\n", nil, "line 1: no colon"},
		"a wrong limit": {"new:" + cheapHash(t, "b") + ":max_conections = 1\n", nil, "max_conections"},
		"no user":       {"# none\n", nil, "there is no user in it"},
		"no password":   {`{"name":"new"}`, nil, "neither password nor password_hash"},
		"empty":         {"new:\n", nil, "empty"},
		"no such word":  {"new:x\n", []string{"--existing", "maybe"}, "existing: refuse, keep or change"},
	} {
		if out, err := d.user(tt.input, append([]string{"import"}, tt.args...)...); err == nil || !strings.Contains(out, tt.says) || strings.Contains(out, "pass word") {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
	if got := fileHas(t, path); got != before {
		t.Errorf("the file: %s", got)
	}
	if out := d.mustUser("ben:other\ndan:d\n", "import", "--existing", "keep", "-"); !strings.Contains(out, "kept               1") || !letsIn(t, d.address, "dan", "d") {
		t.Errorf("import says %s", out)
	}
	echoes(t, ben, "nobody noticed")
	if out := d.mustUser(`[{"name":"ben","disabled":true},{"name":"dan","max_connections":2}]`, "import", "--existing", "change", writeFile(t, "list", `[{"name":"ben","disabled":true},{"name":"dan","max_connections":2}]`)); !strings.Contains(out, "changed            2") || !strings.Contains(out, "connections ended  1") {
		t.Errorf("import says %s", out)
	}
	if got := fileHas(t, path); !strings.Contains(got, `quota = { bytes = "1GiB" }`) && !strings.Contains(got, `quota`) {
		t.Errorf("a limit is lost: %s", got)
	}
}

// Many users by API, of whom few may come with passwords to be hashed.
func TestImportBounds(t *testing.T) {
	d := withUsers(t, filepath.Join(t.TempDir(), "users"), "# none\nfirst:"+cheapHash(t, "x")+"\n", noBans)
	list := func(n int, more object) object {
		users := make([]object, n)
		for i := range users {
			users[i] = object{"name": fmt.Sprintf("u%d", i)}
			maps.Copy(users[i], more)
		}
		return object{"users": users}
	}
	hash := object{"password_hash": cheapHash(t, "y"), "max_connections": 3}
	for _, tt := range []struct {
		body   object
		status int
		says   string
	}{
		{list(10_001, hash), 400, "more than the 10000"},
		{list(101, object{"password": "x"}), 400, "more than 100 passwords"},
		{list(0, nil), 400, "there are none"},
		{list(1000, hash), 200, `"added": 1000`},
		{list(1000, hash), 409, "is there already"},
	} {
		if status, answer := d.ask("POST", "/api/v1/users/import", tt.body); status != tt.status || !strings.Contains(answer, tt.says) {
			t.Errorf("%d %.200s, want %d %s", status, answer, tt.status, tt.says)
		}
	}
	if !letsIn(t, d.address, "u999", "y") {
		t.Error("not let in")
	}
	// What a page shows of many is a part: who does something, and who may not.
	if status, answer := d.ask("PATCH", "/api/v1/users/u7", object{"disabled": true}); status != 200 {
		t.Errorf("%d %s", status, answer)
	}
	open(t, d, "u500", "y", echoServer(t, "127.0.0.1:0"))
	var users []object
	if d.call("GET", "/api/v1/users?sort=connections&limit=3", nil, &users); len(users) != 3 || users[0]["name"] != "u500" || users[1]["name"] != "u7" {
		t.Errorf("%v", users)
	}
}
