package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// withUsers starts a daemon with this users file.
func withUsers(t *testing.T, path, content, more string) *daemon {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
		t.Fatal(err)
	}
	return start(t, withAPI(t, "[auth]\nusers_file = '"+path+"'\n"+more))
}

// ask is call for an answer whose error matters.
func (d *daemon) ask(method, path string, body any) (status int, answer string) {
	d.t.Helper()
	send, err := json.Marshal(body)
	if err != nil {
		d.t.Fatal(err)
	}
	req, err := http.NewRequest(method, "http://"+d.admin+path, strings.NewReader(string(send)))
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+adminToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return resp.StatusCode, string(got)
}

// user runs `cleversocks user` with a password on standard input.
func (d *daemon) user(password string, args ...string) (string, error) {
	d.t.Helper()
	cmd := exec.Command(binary, append([]string{"user", "--admin", d.admin, "--token-file", writeFile(d.t, "token", adminToken+"\n")}, args...)...)
	cmd.Stdin = strings.NewReader(password)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (d *daemon) mustUser(password string, args ...string) string {
	d.t.Helper()
	out, err := d.user(password, args...)
	if err != nil {
		d.t.Fatalf("user %v: %v: %s", args, err, out)
	}
	return out
}

// letsIn tries a name and password.
func letsIn(t *testing.T, proxy, user, password string) bool {
	t.Helper()
	c := dialProxyFrom(t, proxy, "127.0.0.1")
	defer c.Close()
	send(t, c, 5, 1, 2)
	receive(t, c, 2)
	msg := append([]byte{1, byte(len(user))}, user...)
	send(t, c, append(append(msg, byte(len(password))), password...)...)
	return receive(t, c, 2)[1] == 0
}

func fileHas(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const noBans = "[limits]\nauth_failures = { max = 0 }\n"

// A user's life at run time, by command and by API. Each step is what somebody
// asked another proxy for: the user is there at once, the old password is
// worth nothing at once (script-server#567, s-ui#684), who is disabled, expired
// or removed is cut off in the middle of a transfer (3proxy#947, 3x-ui#3238,
// #6533), and is let in again with the quota of before (3x-ui#6257); nobody
// else notices (sing-box#4512), and the API says so at once (3x-ui#3055, #3162).
func TestUserAtRunTime(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	path := filepath.Join(t.TempDir(), "users")
	head := "# the office\nstays:" + cheapHash(t, "x") + "\n\n# guests\n"
	d := withUsers(t, path, head, noBans)
	stays := open(t, d, "stays", "x", echo)
	state := func(name string) string {
		var u object
		if d.call("GET", "/api/v1/users/"+name, nil, &u) != 200 {
			return ""
		}
		return fmt.Sprint(u["state"])
	}

	d.mustUser("s3cret\n", "add", "bob", "--quota", "1GiB", "--groups", "guests,night", "--note", "till Xmas")
	bob := open(t, d, "bob", "s3cret", echo)
	if got := fileHas(t, path); !strings.HasPrefix(got, head+"bob:$argon2id$") || !strings.HasSuffix(got, ":groups = ['guests', 'night'], quota = {bytes = '1GiB'}, note = 'till Xmas'\n") {
		t.Errorf("the file: %s", got)
	}
	d.mustUser("other\n", "passwd", "bob")
	if letsIn(t, d.address, "bob", "s3cret") || !letsIn(t, d.address, "bob", "other") {
		t.Error("the old password is in force")
	}
	echoes(t, bob, "a new password ends nothing")

	elsewhen := "daily " + time.Now().UTC().Add(12*time.Hour).Format("15:04") + "-" + time.Now().UTC().Add(13*time.Hour).Format("15:04")
	for _, step := range []struct {
		off, on []string
		state   string
	}{
		{[]string{"disable", "bob"}, []string{"enable", "bob"}, "disabled"},
		{[]string{"expire", "bob"}, []string{"set", "bob", "--unset", "valid_until"}, "no_longer_valid"},
		{[]string{"set", "bob", "--valid-from", "24h"}, []string{"set", "bob", "--unset", "valid_from"}, "not_yet_valid"},
		{[]string{"set", "bob", "--hours", elsewhen}, []string{"set", "bob", "--unset", "hours"}, "outside_hours"},
	} {
		d.mustUser("", step.off...)
		if _, err := bob.Read(make([]byte, 1)); err == nil {
			t.Errorf("%v: goes on", step.off)
		}
		if got := state("bob"); got != step.state || letsIn(t, d.address, "bob", "other") {
			t.Errorf("%v: %s, or let in", step.off, got)
		}
		d.mustUser("", step.on...)
		if got := state("bob"); got != "ok" {
			t.Errorf("%v: %s", step.on, got)
		}
		bob = open(t, d, "bob", "other", echo)
	}
	var u struct{ Quota struct{ Used, Limit int64 } }
	if d.call("GET", "/api/v1/users/bob", nil, &u); u.Quota.Used < 50 || u.Quota.Limit != 1<<30 {
		t.Errorf("what was used is forgotten: %+v", u.Quota)
	}
	out := d.mustUser("", "remove", "bob")
	if !strings.Contains(out, "removed, 1 connections ended") {
		t.Errorf("remove says %s", out)
	}
	if _, err := bob.Read(make([]byte, 1)); err == nil || letsIn(t, d.address, "bob", "other") || state("bob") != "" {
		t.Error("who was removed goes on")
	}
	eventually(t, "the record says so", func() bool { return strings.Count(d.log(), `"cause":"revoked"`) == 5 })
	echoes(t, stays, "nobody else noticed")
	if got := fileHas(t, path); got != head {
		t.Errorf("the file: %s", got)
	}
	for _, secret := range []string{"s3cret", "other", "$argon2id$", "$2a$"} {
		if strings.Contains(d.log(), secret) {
			t.Errorf("%s is in the log", secret)
		}
	}
}

// open is a tunnel of a user's that works.
func open(t *testing.T, d *daemon, user, password string, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	c := login(t, d.address, "127.0.0.1", user, password)
	if code := request(t, c, 1, to); code != succeeded {
		t.Fatalf("%s: reply %d", user, code)
	}
	echoes(t, c, "hello from a tunnel")
	return c
}

// What a quota or a cap is set to holds for the tunnels that are open: a client
// went on for as long as it stayed connected (3x-ui#4119).
func TestLimitsReachOpenTunnels(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	d := withUsers(t, filepath.Join(t.TempDir(), "users"), "bob:"+cheapHash(t, "x")+"\n", noBans)
	bob := open(t, d, "bob", "x", echo)
	if status, answer := d.ask("PATCH", "/api/v1/users/bob", object{"quota": object{"bytes": "100B"}, "max_connections": 1}); status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	if code := request(t, login(t, d.address, "127.0.0.1", "bob", "x"), 1, echo); code != notAllowed {
		t.Errorf("a second connection: reply %d", code)
	}
	if _, err := bob.Write(make([]byte, 200)); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, bob); err == nil || n > 100 {
		t.Errorf("%d bytes, %v", n, err)
	}
	if r := d.record(echo.String()); r["cause"] != "quota" {
		t.Errorf("cause %v", r["cause"])
	}
	// Used up, and let in again by an operator who has been paid, without another limit.
	var u struct {
		Quota struct{ Used, Remaining int64 }
	}
	if out := d.mustUser("", "reset", "bob"); !strings.Contains(out, "ok") {
		t.Errorf("reset says %s", out)
	}
	if d.call("GET", "/api/v1/users/bob", nil, &u); u.Quota.Used != 0 || u.Quota.Remaining != 100 {
		t.Errorf("after the reset: %+v", u)
	}
	open(t, d, "bob", "x", echo).Close()
	if status, answer := d.ask("PATCH", "/api/v1/users/bob", object{"quota": object{"period": "48h"}, "unset": []string{"max_connections"}}); status != 200 || !strings.Contains(answer, `"limit": 100`) {
		t.Errorf("%d %s", status, answer)
	}
	if status, answer := d.ask("PATCH", "/api/v1/users/bob", object{"unset": []string{"quota"}}); status != 200 || strings.Contains(answer, `"quota"`) {
		t.Errorf("%d %s", status, answer)
	}
	open(t, d, "bob", "x", echo)
}

// What cannot be done says why, and changes nothing.
func TestUserRefusals(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	content := "bob:" + cheapHash(t, "x") + "\n"
	d := withUsers(t, path, content, noBans+"[acl]\nstrict = true\n[[acl.rule]]\nusers = [\"bob\"]\naction = \"deny\"\n[[user]]\nname = \"toml\"\npassword_hash = '"+cheapHash(t, "y")+"'\n")
	for _, tt := range []struct {
		method, path string
		body         object
		want         int
		says         string
	}{
		{"POST", "", object{"name": "bob", "password": "x"}, 409, "is there already"},
		{"POST", "", object{"name": "toml", "password": "x"}, 409, "cleversocks.toml:"},
		{"POST", "", object{"name": "x"}, 400, "password: give one"},
		{"POST", "", object{"name": "x", "password": ""}, 400, "empty"},
		{"POST", "", object{"name": "x", "password_hash": "$6$hidden$"}, 400, "SHA-512 crypt"},
		{"POST", "", object{"name": "a:b", "password": "x"}, 400, "a colon"},
		{"POST", "", object{"name": "a\nb", "password": "x"}, 400, "control character"},
		{"POST", "", object{"name": "x", "password": "x", "valid_untill": "x"}, 400, "valid_untill"},
		{"POST", "", object{"name": "x", "password": "x", "quota": object{"bytes": "many"}}, 400, "quota.bytes: must be a size"},
		{"POST", "", object{"name": "x", "password": "x", "unset": []string{"speed"}}, 400, `there is no \"speed\"`},
		{"PATCH", "/toml", object{"disabled": true}, 409, "is for you to edit"},
		{"DELETE", "/toml", nil, 409, "cleversocks.toml:"},
		{"PATCH", "/nobody", object{"disabled": true}, 404, "no such user"},
		{"DELETE", "/nobody", nil, 404, "no such user"},
		{"DELETE", "/bob", nil, 409, `acl.rule[0].users: there is no user \"bob\"`}, // acl.strict
		{"GET", "/nobody", nil, 404, "no such user"},
		{"DELETE", "/nobody/usage", nil, 404, "no such user"},
		{"DELETE", "/bob/usage", nil, 409, "has no quota"},
	} {
		status, answer := d.ask(tt.method, "/api/v1/users"+tt.path, tt.body)
		if status != tt.want || !strings.Contains(answer, tt.says) || strings.Contains(answer, "hidden") {
			t.Errorf("%s %s %v: %d %s, want %d %s", tt.method, tt.path, tt.body, status, answer, tt.want, tt.says)
		}
	}
	if got := fileHas(t, path); got != content {
		t.Errorf("the file: %s", got)
	}
	if out, err := d.user("", "disable", "toml"); err == nil || !strings.Contains(out, "cleversocks.toml:") {
		t.Errorf("%v: %s", err, out)
	}
	none := start(t, withAPI(t, ""))
	if status, answer := none.ask("POST", "/api/v1/users", object{"name": "x", "password": "x"}); status != 409 || !strings.Contains(answer, "auth.users_file is not set") {
		t.Errorf("%d %s", status, answer)
	}
}

// A removed user's UDP association ends like a tunnel does (3proxy#947), an
// address that auth-once lets in goes with its user, and a name is bytes.
func TestUsersTakeEverythingAlong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	hash := cheapHash(t, "x")
	d := withUsers(t, path, "udp:"+hash+"\nonce:"+hash+"\na/b%2F \xff:"+hash+"\nlimits:"+hash+"\n",
		"once = { enabled = true }\n[[user]]\nname = \"limits\"\nmax_connections = 3\n"+noBans)
	association := login(t, d.address, "127.0.0.1", "udp", "x")
	if code := request(t, association, 3, netip.MustParseAddrPort("0.0.0.0:0")); code != succeeded {
		t.Fatalf("reply %d", code)
	}
	d.mustUser("", "remove", "udp")
	if _, err := association.Read(make([]byte, 1)); err == nil {
		t.Error("the association goes on")
	}

	free := func() bool { // without a password
		c := dialProxyFrom(t, d.address, "127.0.0.7")
		defer c.Close()
		send(t, c, 5, 1, 0)
		return receive(t, c, 2)[1] == 0
	}
	login(t, d.address, "127.0.0.7", "once", "x")
	if !free() {
		t.Fatal("auth-once does not let in")
	}
	d.mustUser("", "disable", "once")
	if free() {
		t.Error("the address of a disabled user is let in")
	}
	d.mustUser("", "enable", "once")
	d.mustUser("y\n", "passwd", "once")
	if free() {
		t.Error("the address outlives the password")
	}

	d.mustUser("", "disable", "a/b%2F \xff")
	if got := fileHas(t, path); !strings.Contains(got, "a/b%2F \xff:!$2a$") || letsIn(t, d.address, "a/b%2F \xff", "x") {
		t.Errorf("the file: %q", got)
	}

	// The password is in the file, the limits are in the configuration.
	if status, answer := d.ask("PATCH", "/api/v1/users/limits", object{"max_connections": 9}); status != 409 || !strings.Contains(answer, "cleversocks.toml:") {
		t.Errorf("%d %s", status, answer)
	}
	d.mustUser("z\n", "passwd", "limits")
	d.mustUser("", "disable", "limits")
	d.mustUser("", "enable", "limits")
	if !letsIn(t, d.address, "limits", "z") {
		t.Error("not let in")
	}
	d.mustUser("", "remove", "limits") // its password alone
	if letsIn(t, d.address, "limits", "z") {
		t.Error("let in without a password")
	}
	d.mustUser("w\n", "add", "limits")
	if !letsIn(t, d.address, "limits", "w") {
		t.Error("not let in again")
	}
}
