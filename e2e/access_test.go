package e2e

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// command runs a command of the program to its end.
func command(t *testing.T, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0") // else each exit takes a second
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// hash makes a password's hash with the program's own command.
func hash(t *testing.T, password string) string {
	t.Helper()
	out, stderr, code := command(t, password+"\n", "hash")
	if code != 0 || !strings.HasPrefix(out, "$argon2id$") {
		t.Fatalf("hash: status %d, %q, %q", code, out, stderr)
	}
	return strings.TrimSuffix(out, "\n")
}

// cheapHash costs the flood's innocents and a slow machine little.
func cheapHash(t *testing.T, password string) string {
	t.Helper()
	sum, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(sum)
}

// via is curl's proxy URL for a user; "" is nobody.
func (d *daemon) via(user, password string) string {
	login := ""
	if user != "" {
		login = user + ":" + password + "@"
	}
	return "socks5h://" + login + d.address
}

// An address in loopback's range, so that one client is not another.
func from(n int) string { return fmt.Sprintf("127.0.%d.%d", n/250, n%250+2) }

// A users file holds argon2id and bcrypt hashes, and names and passwords that
// are bytes; a [[user]] takes its password from there and keeps its limits.
func TestUsersFile(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	raw := "p\xe4ss\xff:w"
	users := writeFile(t, "users", "# our people\n\nalice:"+hash(t, raw)+"\nbob:"+cheapHash(t, "builder")+"\nj\xf6rg:"+cheapHash(t, "x")+"\n")
	d := start(t, `
[auth]
users_file = "`+users+`"
[[user]]
name = "bob"
from = ["127.0.0.9"]
`)
	for name, tt := range map[string]struct {
		user, password, from string
		ok                   bool
	}{
		"argon2id, bytes":        {"alice", "p%E4ss%FF%3Aw", from(1), true},
		"wrong":                  {"alice", "p%E4ss", from(2), false},
		"bcrypt, from its range": {"bob", "builder", "127.0.0.9", true},
		"from elsewhere":         {"bob", "builder", from(3), false},
		"name in bytes":          {"j%F6rg", "x", from(4), true},
		"nobody":                 {"", "", from(5), false},
		"unknown":                {"eve", "x", from(6), false},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := curl(t, "--interface", tt.from, "--proxy", d.via(tt.user, tt.password), web.URL)
			if (err == nil) != tt.ok {
				t.Errorf("%q, %v", out, err)
			}
		})
	}
	if strings.Contains(d.log(), "builder") || strings.Contains(d.log(), "$argon2id") {
		t.Error("a secret in the log")
	}
	if got := d.settles(`cleversocks_user_connections_total{user="bob"}`, "1"); got != "1" {
		t.Errorf("bob had %s connections", got)
	}
}

// A proxy that asks for passwords does not open when its file becomes empty.
// A reload refuses that: more likely the file was cut short while it was
// written. One that was empty from the start lets nobody in.
func TestEmptyUsersFileStaysClosed(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	users := writeFile(t, "users", "alice:"+cheapHash(t, "x")+"\n")
	d := start(t, "[auth]\nusers_file = \""+users+"\"\n")
	mustCurl(t, "--proxy", d.via("alice", "x"), web.URL)
	rewrite(t, users, "")
	d.signal(syscall.SIGHUP)
	d.waitMessage("reload failed")
	mustCurl(t, "--proxy", d.via("alice", "x"), web.URL)
	if out, err := curl(t, "--proxy", d.via("", ""), web.URL); err == nil {
		t.Errorf("let in: %q", out)
	}
	empty := start(t, "[auth]\nusers_file = \""+users+"\"\n")
	for _, user := range []string{"", "alice"} {
		if out, err := curl(t, "--proxy", empty.via(user, "x"), web.URL); err == nil {
			t.Errorf("%q is let in: %q", user, out)
		}
	}
	empty.waitMessage("nobody can log in")
}

// The same holds for the configuration itself. An editor on a full disk leaves
// an empty file, or one that ends before its [[user]], which is valid, and a
// reload took it and let everybody in.
func TestCutShortConfigurationStaysClosed(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	whole := "[admin]\naddress = \"127.0.0.1:0\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n"
	user := "[[user]]\nname = \"alice\"\npassword_hash = \"" + cheapHash(t, "x") + "\"\n"
	file := writeFile(t, "c.toml", whole+user)
	d := startProgram(t, "--config", file, "--log-format", "json")
	for i, left := range []string{"", whole} {
		rewrite(t, file, left)
		d.signal(syscall.SIGHUP)
		eventually(t, "the reload is refused", func() bool {
			return strings.Count(d.log(), "the old configuration stays") == i+1
		})
		mustCurl(t, "--proxy", d.via("alice", "x"), web.URL)
		if out, err := curl(t, "--proxy", d.via("", ""), web.URL); err == nil {
			t.Errorf("let in: %q", out)
		}
	}
	rewrite(t, file, whole+"[auth]\nrequired = false\n")
	d.signal(syscall.SIGHUP)
	d.waitLine("msg", "reloaded")
	mustCurl(t, "--proxy", d.via("", ""), web.URL)
}

// Whoever may read a secrets file is nobody but its owner and group, unless
// the mount is read-only or the settings say so.
func TestWorldReadableUsersFile(t *testing.T) {
	users := writeFile(t, "users", "alice:"+cheapHash(t, "x")+"\n")
	if err := os.Chmod(users, 0o644); err != nil {
		t.Fatal(err)
	}
	settings := "[auth]\nusers_file = \"" + users + "\"\n"
	file := writeFile(t, "c.toml", settings)
	_, stderr, code := command(t, "", "check", "--config", file)
	if code != 2 || !strings.Contains(stderr, "c.toml:2:1: auth.users_file: ") || !strings.Contains(stderr, "every user may read it") {
		t.Errorf("status %d, %q", code, stderr)
	}
	rewrite(t, file, settings+"[secrets]\nallow_world_readable = true\n")
	if _, stderr, code = command(t, "", "check", "--config", file); code != 0 {
		t.Errorf("with the override: status %d, %q", code, stderr)
	}
	rewrite(t, file, settings)
	dir := filepath.Dir(users)
	if err := syscall.Mount(dir, dir, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code = command(t, "", "check", "--config", file); code != 0 {
		t.Errorf("on a read-only mount: status %d, %q", code, stderr)
	}
}

// -w is for addresses that need no password; the others still do.
func TestNoPasswordFrom(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	d := start(t, "", "-u", "joe", "-P", "secret", "-w", "127.0.0.7,127.0.1.0/24", "-w", "::1")
	for client, ok := range map[string]bool{"127.0.0.7": true, "127.0.1.9": true, "127.0.0.8": false} {
		if out, err := curl(t, "--interface", client, "--proxy", d.via("", ""), web.URL); (err == nil) != ok {
			t.Errorf("%s: %q, %v", client, out, err)
		}
	}
	// curl offers "no authentication" with credentials too: it is taken.
	mustCurl(t, "--interface", "127.0.0.7", "--proxy", d.via("joe", "wrong"), web.URL)
	mustCurl(t, "--interface", "127.0.0.8", "--proxy", d.via("joe", "secret"), web.URL)
	mustCurl(t, "--interface", "127.0.0.7", "--proxy", "http://"+d.address, web.URL)
	mustCurl(t, "--interface", "127.0.0.7", "--proxy", "socks4://"+d.address, web.URL)
	if got := d.settles(`cleversocks_auth_total{method="whitelist",outcome="ok"}`, "5"); got != "5" {
		t.Errorf("%s by the whitelist, want 5", got)
	}
}

// -1 lets in the very next connection of an address that has just logged in,
// of every protocol, and no other address.
func TestAuthOnce(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	echo := echoServer(t, "127.0.0.1:0")
	token := writeFile(t, "token", "0123456789abcdef\n")
	d := start(t, "[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \""+token+"\"\n", "-1", "-u", "joe", "-P", "secret")
	client, other := "127.0.0.7", "127.0.0.8"
	if _, err := curl(t, "--interface", client, "--proxy", d.via("", ""), web.URL); err == nil {
		t.Fatal("let in before it logged in")
	}
	// The status reply is read, and the next connection comes at once.
	for i := range 50 {
		source := fmt.Sprintf("127.0.9.%d", i+1)
		c := dialProxyFrom(t, d.address, source)
		send(t, c, 5, 1, 2)
		receive(t, c, 2)
		send(t, c, []byte("\x01\x03joe\x06secret")...)
		if got := receive(t, c, 2); got[1] != 0 {
			t.Fatalf("status %d", got[1])
		}
		next := dialProxyFrom(t, d.address, source)
		send(t, next, 5, 1, 0)
		if got := receive(t, next, 2); got[1] != 0 {
			t.Fatalf("method %#x: the next connection is not let in", got[1])
		}
		if code := request(t, next, 1, echo); code != 0 {
			t.Fatalf("reply %d", code)
		}
		c.Close()
		next.Close()
	}
	mustCurl(t, "--interface", client, "--proxy", d.via("joe", "secret"), web.URL)
	mustCurl(t, "--interface", client, "--proxy", d.via("", ""), web.URL)
	mustCurl(t, "--interface", client, "--proxy", "http://"+d.address, web.URL)
	mustCurl(t, "--interface", client, "--proxy", "socks4a://"+d.address, web.URL)
	if _, err := curl(t, "--interface", other, "--proxy", d.via("", ""), web.URL); err == nil {
		t.Error("another address is let in")
	}
	if got := d.settles("cleversocks_whitelist_size", "51"); got != "51" {
		t.Errorf("whitelist of %s", got)
	}
	if _, body := d.api("GET", "/api/v1/whitelist", "0123456789abcdef"); !strings.Contains(body, `"address": "127.0.0.7"`) || !strings.Contains(body, `"user": "joe"`) {
		t.Errorf("listed as %s", body)
	}
	if status, _ := d.api("DELETE", "/api/v1/whitelist/127.0.0.7", "0123456789abcdef"); status != 204 {
		t.Errorf("status %d", status)
	}
	if _, err := curl(t, "--interface", client, "--proxy", d.via("", ""), web.URL); err == nil {
		t.Error("let in after it was revoked")
	}
	if status, _ := d.api("DELETE", "/api/v1/whitelist/127.0.0.7", "0123456789abcdef"); status != 404 {
		t.Errorf("status %d for what is not there", status)
	}
}

// An address is let in for the TTL, and the oldest goes when there are too
// many.
func TestAuthOnceEnds(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	settings := func(ttl string) string {
		return "[auth]\nuser = \"joe\"\npassword = \"secret\"\nonce = { enabled = true, ttl = \"" + ttl + "\", max = 2 }\n"
	}
	d := start(t, settings("1h"))
	for n := range 3 {
		mustCurl(t, "--interface", from(n), "--proxy", d.via("joe", "secret"), web.URL)
	}
	if _, err := curl(t, "--interface", from(0), "--proxy", d.via("", ""), web.URL); err == nil {
		t.Error("the oldest is still in")
	}
	if got := d.settles(`cleversocks_whitelist_evicted_total{reason="full"}`, "1"); got != "1" {
		t.Errorf("%s evicted", got)
	}
	d = start(t, settings("1s"))
	mustCurl(t, "--interface", from(2), "--proxy", d.via("joe", "secret"), web.URL)
	eventually(t, "the TTL ends", func() bool {
		_, err := curl(t, "--interface", from(2), "--proxy", d.via("", ""), web.URL)
		return err != nil
	})
}

// A user's connections, bytes and addresses have bounds of their own.
func TestAccountLimits(t *testing.T) {
	web := origin(t, "192.0.2.1:0")
	echo := netip.MustParseAddrPort(web.Listener.Addr().String())
	d := start(t, `
[auth]
allow_plain_passwords = true
[[user]]
name = "capped"
password = "x"
max_connections = 2
[[user]]
name = "slow"
password = "x"
bandwidth = { down = "8MiB/s" }
[[user]]
name = "little"
password = "x"
quota = { bytes = "1MiB", period = "1h" }
[[user]]
name = "leaves"
password = "x"
egress = ["127.0.44.0/24"]
`)
	t.Run("connections", func(t *testing.T) {
		var open []interface{ Close() error }
		for n, want := range []byte{0, 0, 2} {
			c := login(t, d.address, from(n), "capped", "x")
			if got := request(t, c, 1, echo); got != want {
				t.Errorf("connection %d: reply %d, want %d", n+1, got, want)
			}
			open = append(open, c)
		}
		for _, c := range open {
			c.Close()
		}
		eventually(t, "one more may come", func() bool {
			c := login(t, d.address, from(4), "capped", "x")
			defer c.Close()
			return request(t, c, 1, echo) == 0
		})
		eventually(t, "the refusal is counted", func() bool { return d.metric(`cleversocks_requests_refused_total{reason="user_limit"}`) != "0" })
	})
	t.Run("bandwidth", func(t *testing.T) {
		// 24 MiB at 8 MiB/s, of which half a second's worth comes at once.
		out := mustCurl(t, "--proxy", d.via("slow", "x"), "-o", "/dev/null", "-w", "%{time_total}", web.URL+"/big")
		var seconds float64
		if _, err := fmt.Sscanf(out, "%f", &seconds); err != nil || seconds < 1.5 {
			t.Errorf("24 MiB took %q s: no limit", out)
		}
	})
	t.Run("quota", func(t *testing.T) {
		if _, err := curl(t, "--proxy", d.via("little", "x"), "-o", "/dev/null", web.URL+"/big"); err == nil {
			t.Error("24 MiB went through 1 MiB")
		}
		cut := d.find("cut by the quota", func(l line) bool { return l["cause"] == "quota" })
		if out, _ := cut["bytes_out"].(float64); out < 1<<20-4096 || out > 1<<20 {
			t.Errorf("cut after %v bytes", cut["bytes_out"])
		}
		c := login(t, d.address, from(5), "little", "x")
		if got := request(t, c, 1, echo); got != 2 {
			t.Errorf("reply %d after the quota, want 2", got)
		}
		if d.settles("cleversocks_quota_exceeded_total", "1") != "1" || d.settles(`cleversocks_requests_refused_total{reason="quota"}`, "1") != "1" {
			t.Error("not counted")
		}
	})
	t.Run("egress", func(t *testing.T) {
		local := origin(t, "127.0.0.1:0")
		mustCurl(t, "--proxy", d.via("leaves", "x"), local.URL)
		record := d.record(local.Listener.Addr().String())
		if !strings.HasPrefix(record.text("local"), "127.0.44.") {
			t.Errorf("left by %v", record["local"])
		}
	})
}
