package e2e

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// promtool takes what we expose without a remark, with series of every kind and all
// that can be turned on turned on.
func TestPromtoolHasNoRemark(t *testing.T) {
	program(t, "promtool", "prometheus")
	echo := echoServer(t, "127.0.0.1:0")
	d := start(t, `
[auth]
allow_plain_passwords = true
once = { enabled = true }
[[user]]
name = 'CORP\al"ice'
password = "correct horse"
quota = { bytes = "1GiB" }
bandwidth = { up = "100MiB/s" }
max_addresses = 3
[[user]]
name = "late"
password = "correct horse"
valid_until = 2020-01-01T00:00:00Z
[shared_state]
url = "redis://127.0.0.1:1"
[usage]
url = "http://127.0.0.1:1/"
interval = "1s"
[state]
directory = '`+t.TempDir()+`'
[resolver]
servers = ["udp://127.0.0.1:1", "tls://127.0.0.1:1", "https://127.0.0.1:1/dns-query"]
[[listener]]
address = "127.0.0.1:0"
`+newAuthority(t).tlsListener("")+`[acl]
report_only = true
[[acl.rule]]
action = "allow"
to = ["127.0.0.0/8"]
[[upstream]]
name = "exit"
members = ["socks5://127.0.0.1:1", "socks5://127.0.0.1:2"]
[[forward]]
to = ["*.test"]
upstream = "exit"
`)
	c := login(t, d.address, "127.0.0.1", `CORP\al"ice`, "correct horse")
	if reply := request(t, c, 1, echo); reply != succeeded {
		t.Fatalf("reply %d", reply)
	}
	echoes(t, c, "some bytes")
	c.Close()
	d.record(echo.String())
	_, body := d.get("/metrics")
	cmd := exec.Command("promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(body)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool: %v\n%s", err, out)
	}
	for _, want := range []string{`cleversocks_user_connections_total{user="CORP\\al\"ice"} 1`, `cleversocks_upstream_up{upstream="exit"`} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
}

// The series of a user and of a rule end with them.
func TestSeriesEndWithAReload(t *testing.T) {
	users := "[auth]\nrequired = true\nallow_plain_passwords = true\n"
	one := "[[user]]\nname = \"alice\"\npassword = \"correct horse\"\n"
	two := "[[user]]\nname = \"bob\"\npassword = \"battery staple\"\n[[acl.rule]]\naction = \"deny\"\nto = [\"192.0.2.9\"]\n[[acl.rule]]\naction = \"allow\"\n"
	path := writeFile(t, "c.toml", users+one+two)
	d := startProgram(t, "--config", path, "-p", "0", "--admin", "127.0.0.1:0", "--log-format", "json")
	echo := echoServer(t, "127.0.0.1:0")
	c := login(t, d.address, "127.0.0.1", "bob", "battery staple")
	_ = request(t, c, 1, echo)
	c.Close()
	d.find("of the connection's end", func(l line) bool { return l["msg"] == "connection" })
	rule := `rule="acl.rules[1]"`
	if _, body := d.get("/metrics"); !strings.Contains(body, `user="bob"`) || !strings.Contains(body, rule) {
		t.Fatalf("no series to begin with:\n%s", body)
	}
	rewrite(t, path, users+one)
	d.signal(syscall.SIGHUP)
	d.waitMessage("reloaded")
	eventually(t, "the series are gone", func() bool {
		_, body := d.get("/metrics")
		return !strings.Contains(body, `user="bob"`) && !strings.Contains(body, rule)
	})
}
