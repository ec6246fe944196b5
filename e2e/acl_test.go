package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Each rule dimension decides by itself; the first match wins.
func TestRules(t *testing.T) {
	lists := t.TempDir()
	list := filepath.Join(lists, "list.txt")
	rewrite(t, list, "# where nobody goes\n192.0.2.1\n")
	web := origin(t, "127.0.0.1:0")
	public := origin(t, "192.0.2.1:0")
	d := start(t, fmt.Sprintf(`
[auth]
allow_plain_passwords = true
required = false
[[user]]
name = "alice"
password = "x"
groups = ["staff"]
[[user]]
name = "bob"
password = "x"
[acl]
block_private = false
[[acl.rule]]
action = "deny"
from = ["127.0.0.66"]
[[acl.rule]]
action = "deny"
users = ["bob"]
to = ["127.0.0.0/8"]
[[acl.rule]]
action = "deny"
to = ["file:%s"]
[[acl.rule]]
action = "allow"
groups = ["staff"]
to = ["localhost"]
[[acl.rule]]
action = "deny"
to = ["localhost"]
[[acl.rule]]
action = "deny"
ports = [9, "%s-%s"]
to = ["127.0.0.2-127.0.0.9"]
[[acl.rule]]
action = "deny"
commands = ["bind", "udp"]
`, list, port(web.Listener.Addr().String()), port(web.Listener.Addr().String())))
	webPort := port(web.Listener.Addr().String())
	for name, tt := range map[string]struct {
		user, from, url string
		ok              bool
	}{
		"nothing matches":         {"", from(1), web.URL, true},
		"source":                  {"", "127.0.0.66", web.URL, false},
		"user and CIDR":           {"bob", from(1), web.URL, false},
		"list in a file":          {"", from(1), public.URL, false},
		"name, by the group":      {"alice", from(1), "http://localhost:" + webPort, true},
		"name, not of the group":  {"", from(1), "http://localhost:" + webPort, false},
		"name in another form":    {"", from(1), "http://LOCALHOST.:" + webPort, false},
		"port and range":          {"", from(1), "http://127.0.0.5:" + webPort, false},
		"behind the range":        {"", from(1), "http://127.0.0.1:" + webPort, true},
		"v4-mapped is IPv4":       {"", from(1), "http://[::ffff:192.0.2.1]:" + port(public.Listener.Addr().String()), false},
		"literal in name form":    {"bob", from(1), "http://127.0.0.1:" + webPort, false},
		"proxy itself, by number": {"", from(1), "http://" + d.address, false},
		"admin, by number":        {"", from(1), "http://" + d.admin, false},
		"admin, by the host's":    {"", from(1), "http://0.0.0.0:" + port(d.admin), false},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := curl(t, "-f", "--interface", tt.from, "--proxy", d.via(tt.user, "x"), tt.url)
			if (err == nil) != tt.ok {
				t.Errorf("%q, %v", out, err)
			}
		})
	}
	t.Run("commands", func(t *testing.T) {
		for _, command := range []byte{2, 3} {
			c := dialProxy(t, d.address)
			send(t, c, 5, 1, 0)
			receive(t, c, 2)
			if code := request(t, c, command, netip.MustParseAddrPort("127.0.0.1:9")); code != 2 {
				t.Errorf("command %d: reply %d", command, code)
			}
		}
	})
	t.Run("lists are read again", func(t *testing.T) {
		rewrite(t, list, "192.0.2.77\n")
		d.signal(syscall.SIGHUP)
		d.waitLine("msg", "reloaded")
		mustCurl(t, "--proxy", d.via("", ""), public.URL)
	})
	t.Run("a bad list keeps the old rules", func(t *testing.T) {
		rewrite(t, list, "not/a/cidr\n")
		d.signal(syscall.SIGHUP)
		failed := d.waitMessage("reload failed")
		if !strings.Contains(failed.text("err"), "acl.rule[2].to") || !strings.Contains(failed.text("err"), "line 1") {
			t.Errorf("%v", failed)
		}
		mustCurl(t, "--proxy", d.via("", ""), public.URL)
	})
	if got := d.settles(`cleversocks_acl_decisions_total{action="deny",rule="acl.rules[0]"}`, "1"); got != "1" {
		t.Errorf("%s denials by the first rule", got)
	}
	if got := d.settles(`cleversocks_acl_decisions_total{action="deny",rule="own_listener"}`, "2"); got != "2" {
		t.Errorf("%s denials of the proxy itself", got)
	}
}

// Private targets are blocked once there is a rule, and only a CIDR lifts it.
func TestBlockPrivate(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	byName := "http://localhost:" + port(web.Listener.Addr().String())
	file := writeFile(t, "cleversocks.toml", "")
	settings := func(acl string) string {
		return acl + "\n[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n"
	}
	rewrite(t, file, settings(""))
	d := startProgram(t, "--config", file, "--log-format", "json")
	if got := d.seen("access"); got == nil || got["block_private"] != false {
		t.Errorf("at the start: %v", got)
	}
	mustCurl(t, "--proxy", d.via("", ""), byName)
	for i, tt := range []struct {
		acl   string
		block bool
		ok    bool
	}{
		{"[[acl.rule]]\naction = \"deny\"\nports = [25]", true, false},
		{"[[acl.rule]]\naction = \"allow\"\nto = [\"localhost\"]", true, false},
		{"[[acl.rule]]\naction = \"allow\"\nto = [\"127.0.0.0/8\"]", true, true},
		{"[acl]\nblock_private = false\n[[acl.rule]]\naction = \"deny\"\nports = [25]", false, true},
		{"[acl]\nblock_private = true", true, false},
	} {
		rewrite(t, file, settings(tt.acl))
		d.signal(syscall.SIGHUP)
		generation := float64(i + 2)
		d.find("of the reload", func(l line) bool { return l["msg"] == "reloaded" && l["generation"] == generation })
		if _, err := curl(t, "--proxy", d.via("", ""), byName); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.acl, err)
		}
		said := 0
		d.find("that says what is in force", func(l line) bool {
			if l["msg"] == "access" {
				said++
			}
			return said == i+2 && l["msg"] == "access" && l["block_private"] == tt.block
		})
	}
}

// report_only lets pass what the rules deny, and says so.
func TestReportOnly(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	d := start(t, "[acl]\nreport_only = true\nblock_private = false\n[[acl.rule]]\naction = \"deny\"\nto = [\"127.0.0.0/8\"]\n")
	mustCurl(t, "--proxy", d.via("", ""), web.URL)
	would := d.waitLine("msg", "would be denied")
	if would.text("target") != web.Listener.Addr().String() || would.text("rule") != "acl.rules[0]" || !strings.HasSuffix(would.text("where"), "cleversocks.toml:4") {
		t.Errorf("%v", would)
	}
	if got := d.settles(`cleversocks_acl_decisions_total{action="report",rule="acl.rules[0]"}`, "1"); got != "1" {
		t.Errorf("counted %q", got)
	}
	// The proxy itself is no destination even then.
	if _, err := curl(t, "-f", "--proxy", d.via("", ""), "http://"+d.admin+"/healthz"); err == nil {
		t.Error("the admin endpoint is reached")
	}
}

// What is wrong with a rule or a user is told with file, line and key, all of
// it at once.
func TestAccessSettingsAreChecked(t *testing.T) {
	file := writeFile(t, "c.toml", `
[limits]
auth_failures = { ban = "2h", ban_max = "1h" }
[[user]]
name = "alice"
password = "plain"
[[user]]
name = "bob"
password_hash = "$argon2id$nonsense"
[[user]]
name = "carol"
from = []
[[acl.rule]]
action = "maybe"
[[acl.rule]]
action = "deny"
ports = ["90-80"]
[[acl.rule]]
action = "deny"
to = ["10.0.0.0/33"]
[[acl.rule]]
action = "deny"
users = []
[[acl.rule]]
ports = [25]
[[acl.rule]]
action = "deny"
commands = ["ping"]
`)
	_, stderr, code := command(t, "", "check", "--config", file)
	if code != 2 {
		t.Errorf("status %d", code)
	}
	for _, want := range []string{
		`c.toml:3:`, `limits.auth_failures.ban_max: is 1h, less than`,
		`c.toml:12:1: user[2].from: is an empty list`,
		`c.toml:14:1: acl.rule[0].action: must be one of "allow", "deny", not "maybe"`,
		`c.toml:17:1: acl.rule[1].ports: element 1: has a range that ends before it begins`,
		`c.toml:20:1: acl.rule[2].to[0]: "10.0.0.0/33" is not a CIDR`,
		`c.toml:23:1: acl.rule[3].users: an empty list`,
		`c.toml:24:7: acl.rule[4].action: is missing`,
		`c.toml:28:1: acl.rule[5].commands[0]: "ping" is not a command`,
	} {
		if !strings.Contains(stderr, want) {
			t.Errorf("no %s", want)
		}
	}
	rewrite(t, file, "[[user]]\nname = \"alice\"\npassword = \"plain\"\n[[user]]\nname = \"bob\"\npassword_hash = \"$argon2id$nonsense\"\n")
	_, again, _ := command(t, "", "check", "--config", file)
	for _, want := range []string{`c.toml:3:1: user[0].password: a plain password needs auth.allow_plain_passwords`, `c.toml:6:1: user[1].password_hash: malformed argon2id hash`} {
		if !strings.Contains(again, want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(stderr+again, "nonsense") || strings.Contains(again, `"plain"`) {
		t.Error("a secret is shown")
	}
	if t.Failed() {
		t.Logf("%s%s", stderr, again)
	}
}

// explain says the same from the settings and from the running server.
func TestExplain(t *testing.T) {
	token := writeFile(t, "token", "0123456789abcdef\n")
	file := writeFile(t, "c.toml", `
[[listener]]
address = "127.0.0.1:0"
[admin]
address = "127.0.0.1:0"
token_file = "`+token+`"
[auth]
allow_plain_passwords = true
[[user]]
name = "alice"
password = "x"
groups = ["staff"]
from = ["192.0.2.0/24"]
[[acl.rule]]
action = "allow"
groups = ["staff"]
to = ["127.0.0.0/8"]
[[acl.rule]]
action = "deny"
to = ["*.example.com", "example.com"]
`)
	d := startProgram(t, "--config", file, "--log-format", "json")
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{"--user", "alice", "--from", "192.0.2.7", "--to", "localhost:443"}, []string{"127.0.0.1 (private, listed as 127.0.0.0/8): allow by acl.rules[0] (" + file + ":14)", "result: allow, to 1 of"}},
		{[]string{"--user", "alice", "--from", "198.51.100.1", "--to", "127.0.0.1:443"}, []string{`user "alice" is unknown, or may not come from 198.51.100.1`, "deny by block_private", "result: deny"}},
		{[]string{"--from", "192.0.2.7", "--to", "www.example.com:443", "--command", "udp"}, []string{"deny by acl.rules[1] (" + file + ":18)", "before DNS is asked"}},
	} {
		offline, stderr, code := command(t, "", append([]string{"explain", "--config", file}, tt.args...)...)
		online, stderr2, code2 := command(t, "", append([]string{"explain", "--admin", d.admin, "--token-file", token}, tt.args...)...)
		if code != 0 || code2 != 0 {
			t.Fatalf("status %d, %d: %s%s", code, code2, stderr, stderr2)
		}
		if offline != online {
			t.Errorf("from the settings:\n%s\nfrom the server:\n%s", offline, online)
		}
		for _, want := range tt.want {
			if !strings.Contains(offline, want) {
				t.Errorf("no %q in\n%s", want, offline)
			}
		}
	}
	if _, stderr, code := command(t, "", "explain", "--config", file, "--to", "nonsense"); code == 0 || !strings.Contains(stderr, "HOST:PORT") {
		t.Errorf("status %d, %s", code, stderr)
	}
	for token, want := range map[string]int{"": 401, "0123456789abcdeX": 401, "0123456789abcdef": 400} {
		if status, _ := d.api("GET", "/api/v1/explain", token); status != want {
			t.Errorf("token %q: status %d, want %d", token, status, want)
		}
	}
	bare := start(t, "")
	if status, _ := bare.api("GET", "/api/v1/explain", "0123456789abcdef"); status != 404 {
		t.Errorf("without a token in the settings: status %d", status)
	}
	if strings.Contains(d.log(), "0123456789abcdef") {
		t.Error("the token is in the log")
	}
}

// A reload drops nobody who may stay, and with reload.revoke closes who may
// not; the log and the record say which and why.
func TestRevoke(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	public := echoServer(t, "192.0.2.1:0")
	file := writeFile(t, "c.toml", "")
	settings := func(rest string) string {
		return "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[auth]\nallow_plain_passwords = true\n" + rest
	}
	user := func(name, more string) string {
		return "[[user]]\nname = \"" + name + "\"\npassword = \"x\"\n" + more
	}
	all := user("stays", "") + user("gone", "") + user("moved", "") + user("ruled", "")
	rewrite(t, file, settings(all))
	d := startProgram(t, "--config", file, "--log-format", "json")
	open := func(name string, to netip.AddrPort) *net.TCPConn {
		c := login(t, d.address, "127.0.0.5", name, "x")
		if code := request(t, c, 1, to); code != 0 {
			t.Fatalf("%s: reply %d", name, code)
		}
		echoes(t, c, "hello")
		return c
	}
	stays, gone, moved, ruled := open("stays", echo), open("gone", echo), open("moved", echo), open("ruled", public)

	fewer := user("stays", "") + user("moved", "from = [\"192.0.2.0/24\"]\n") + user("ruled", "") +
		"[acl]\nblock_private = false\n[[acl.rule]]\naction = \"deny\"\nto = [\"192.0.2.0/24\"]\n"
	rewrite(t, file, settings(fewer))
	d.signal(syscall.SIGHUP)
	d.find("of the first reload", func(l line) bool { return l["msg"] == "reloaded" && l["generation"] == 2.0 })
	for _, c := range []*net.TCPConn{stays, gone, moved, ruled} {
		echoes(t, c, "still here") // nobody is dropped unless that is asked for
	}

	rewrite(t, file, settings(fewer+"[reload]\nrevoke = true\n"))
	d.signal(syscall.SIGHUP)
	d.find("of the second reload", func(l line) bool { return l["msg"] == "reloaded" && l["generation"] == 3.0 })
	for name, want := range map[string]struct {
		c    *net.TCPConn
		rule string
	}{"gone": {gone, "user"}, "moved": {moved, "user"}, "ruled": {ruled, "acl.rules[0]"}} {
		if _, err := want.c.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s goes on", name)
		}
		said := d.find("that revokes "+name, func(l line) bool { return l["msg"] == "session revoked" && l["user"] == name })
		if said.text("rule") != want.rule || said["target"] == nil || said["id"] == nil {
			t.Errorf("%v", said)
		}
		record := d.find("that records "+name, func(l line) bool { return l["msg"] == "connection" && l["user"] == name })
		if record.text("cause") != "revoked" || record["id"] != said["id"] {
			t.Errorf("%v", record)
		}
	}
	echoes(t, stays, "still here")
}
