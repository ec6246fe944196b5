package e2e

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type trialReport struct {
	OK    bool
	Reply string
	Error string
	Hint  string
	Bound string
	Steps []struct {
		Step   string
		MS     float64
		Detail string
		Error  string
	}
}

// try runs `cleversocks test --json`.
func try(t *testing.T, password string, args ...string) (r trialReport, code int) {
	t.Helper()
	out, stderr, code := command(t, password, append([]string{"test", "--json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: status %d, %s%s", args, code, out, stderr)
	}
	if strings.Contains(out+stderr, "s3cret") {
		t.Errorf("%v: the password is shown", args)
	}
	return r, code
}

func (r *trialReport) names() string {
	var names []string
	for _, s := range r.Steps {
		names = append(names, s.Step)
	}
	return strings.Join(names, " ")
}

// A test goes the way of a client, by each protocol, and says where it ended.
func TestTrial(t *testing.T) {
	web := origin(t, "127.0.0.1:0").Listener.Addr().String()
	parent := start(t, "")
	d := start(t, `
[limits]
auth_failures = { max = 0 }
[auth]
allow_plain_passwords = true
socks4_users = true
[[user]]
name = "alice"
password = "s3cret"
[[user]]
name = "four"
[[upstream]]
name = "exit"
via = ["socks5://`+parent.address+`"]
[[forward]]
to = ["127.0.0.0/8"]
upstream = "exit"
[[acl.rule]]
action = "deny"
to = ["127.0.0.9"]
[[acl.rule]]
action = "allow"
to = ["127.0.0.0/8"]
`)
	closed := "127.0.0.1:" + freePort(t)
	for _, tt := range []struct {
		name, password string
		args           []string
		code           int
		steps          string
		reply, says    string
	}{
		{"socks5", "s3cret\n", []string{"--user", "alice", "--to", web}, 0, "connect greeting login request", "succeeded", ""},
		{"socks5, with an answer", "s3cret\n", []string{"--user", "alice", "--to", web, "--get", "/"}, 0, "connect greeting login request first_byte", "succeeded", "HTTP/1.1 200"},
		{"wrong password", "wrong\n", []string{"--user", "alice", "--to", web}, 1, "connect greeting login", "", "refuses user and password"},
		{"no user", "", []string{"--to", web}, 1, "connect greeting", "", "wants a log-in"},
		{"denied", "s3cret\n", []string{"--user", "alice", "--to", "127.0.0.9:80"}, 1, "connect greeting login request", "not_allowed", "cleversocks explain --user alice --to 127.0.0.9:80"},
		{"nobody there", "s3cret\n", []string{"--user", "alice", "--to", closed}, 1, "connect greeting login request", "connection_refused", ""},
		{"http", "s3cret\n", []string{"--user", "alice", "--proxy", "http://" + d.address, "--to", web, "--get", "/"}, 0, "connect request first_byte", "succeeded", "HTTP/1.1 200"},
		{"http, wrong password", "wrong\n", []string{"--user", "alice", "--proxy", "http://" + d.address, "--to", web}, 1, "connect request", "", "(407)"},
		{"socks4", "", []string{"--user", "four", "--proxy", "socks4://" + d.address, "--to", web}, 0, "connect request", "succeeded", ""},
		{"no proxy there", "", []string{"--proxy", closed, "--to", web}, 1, "connect", "", "nobody listens there"},
		{"no TLS there", "", []string{"--proxy", "https://" + d.address, "--insecure", "--to", web}, 1, "connect tls", "", "TLS"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := tt.args
			if !strings.Contains(strings.Join(args, " "), "--proxy") {
				args = append(args, "--proxy", d.address)
			}
			r, code := try(t, tt.password, args...)
			last := r.Steps[len(r.Steps)-1]
			if code != tt.code || r.OK != (code == 0) || r.names() != tt.steps || r.Reply != tt.reply || !strings.Contains(r.Error+r.Hint+last.Detail, tt.says) {
				t.Errorf("status %d: %+v", code, r)
			}
		})
	}
	eventually(t, "the upstream's record says that it went through there", func() bool { return strings.Contains(parent.log(), web) })
	for name, args := range map[string][]string{
		"nothing": nil, "no port": {"--to", "x"}, "scheme": {"--to", "x:1", "--proxy", "ftp://x:1"}, "password in argv": {"--to", "x:1", "--proxy", "socks5://a:b@x:1"},
		"variable": {"--to", "x:1", "--user", "a", "--password-env", "NOT_THERE_AT_ALL"}, "path": {"--to", "x:1", "--get", "x"},
	} {
		if _, stderr, code := command(t, "", append([]string{"test"}, args...)...); code != 2 {
			t.Errorf("%s: status %d, %s", name, code, stderr)
		}
	}
}

// The settings say where the proxy is, and which certificate it has; a unix
// socket and a password from a file or the environment will do, too.
func TestTrialFindsTheProxy(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	dir := t.TempDir()
	socket := filepath.Join(dir, "proxy.sock")
	certificate(t, dir, "proxy.example.org")
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	tcp := freePort(t)
	file := writeFile(t, "c.toml", "[auth]\nuser = \"alice\"\npassword_file = '"+writeFile(t, "password", "s3cret\n")+"'\n[[listener]]\naddress = \"0.0.0.0:"+tcp+"\"\ntls = { cert = '"+cert+"', key = '"+key+"' }\n[[listener]]\naddress = \"unix:"+socket+"\"\nname = \"local\"\n[admin]\naddress = \"\"\n")
	startProgram(t, "--config", file, "--log-format", "json")
	t.Setenv("MY_PASSWORD", "s3cret")
	for name, args := range map[string][]string{
		"tls, by the settings":      {"--config", file, "--password-env", "MY_PASSWORD"},
		"a unix socket, by name":    {"--config", file, "--listener", "local", "--password-env", "MY_PASSWORD"},
		"a unix socket, by address": {"--proxy", "unix:" + socket, "--password-file", writeFile(t, "pw", "s3cret\n")},
		"tls, by authority":         {"--proxy", "socks5+tls://localhost:" + tcp, "--ca", cert, "--tls-name", "proxy.example.org", "--password-env", "MY_PASSWORD"},
		"tls, unverified":           {"--proxy", "https://127.0.0.1:" + tcp, "--insecure", "--password-env", "MY_PASSWORD"},
	} {
		r, code := try(t, "", append(args, "--user", "alice", "--to", echo.String())...)
		if code != 0 || !r.OK || strings.Contains(name, "tls") != strings.Contains(r.names(), "tls") {
			t.Errorf("%s: status %d, %+v", name, code, r)
		}
	}
	r, code := try(t, "", "--proxy", "https://127.0.0.1:"+tcp, "--to", echo.String())
	if code != 1 || !strings.Contains(r.Error, "not trusted") || !strings.Contains(r.Hint, "--ca") {
		t.Errorf("an unknown certificate: status %d, %+v", code, r)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	r, code = try(t, "", "--proxy", silent.Addr().String(), "--to", echo.String(), "--timeout", "300ms")
	if code != 1 || !strings.Contains(r.Error, "no answer in time") {
		t.Errorf("a silent proxy: status %d, %+v", code, r)
	}
}

// Expected decisions, as CI has them: the status is what counts, the difference
// is for a person.
func TestRulesFile(t *testing.T) {
	out, stderr, code := command(t, "", "test", "rules", "../examples/tests/company.toml", "--config", "../examples/company.toml")
	if code != 0 || out != "4 cases are as expected\n" {
		t.Errorf("status %d, %s%s", code, out, stderr)
	}
	text, err := os.ReadFile("../examples/tests/company.toml")
	if err != nil {
		t.Fatal(err)
	}
	wrong := writeFile(t, "wrong.toml", strings.Replace(string(text), `rule = "block_private"`, `rule = "acl.rules[0]"`, 1))
	out, stderr, code = command(t, "", "test", "rules", wrong, "--config", "../examples/company.toml")
	if code != 1 || !strings.Contains(out, "wrong.toml:16: an allowed name that leads inside: deny by block_private, where acl.rules[0] is expected") || !strings.Contains(stderr, "1 of 4 cases") {
		t.Errorf("status %d, %s%s", code, out, stderr)
	}
	if out, _, code = command(t, "", "test", "rules", wrong, "--config", "../examples/company.toml", "--json"); code != 1 || strings.Count(out, `"ok": true`) != 3 {
		t.Errorf("status %d, %s", code, out)
	}
	if _, stderr, code = command(t, "", "test", "rules", writeFile(t, "bad.toml", "[[case]]\nto = \"x\"\n"), "--config", "../examples/company.toml"); code != 2 || !strings.Contains(stderr, "bad.toml:1") {
		t.Errorf("status %d, %s", code, stderr)
	}
	d := start(t, withAPI(t, apiSettings))
	cases := writeFile(t, "online.toml", "[[case]]\nuser = \"alice\"\nto = \"127.0.0.9:80\"\nexpect = \"deny\"\nrule = \"acl.rules[0]\"\n[[case]]\nuser = \"alice\"\nto = \"127.0.0.1:80\"\nexpect = \"allow\"\n")
	token := writeFile(t, "token", adminToken+"\n")
	if out, stderr, code = command(t, "", "test", "rules", cases, "--admin", d.admin, "--token-file", token); code != 0 {
		t.Errorf("status %d, %s%s", code, out, stderr)
	}
	d.call("POST", "/api/v1/bans", object{"source": "192.0.2.9"}, nil)
	out, _, _ = command(t, "", "explain", "--json", "--admin", d.admin, "--token-file", token, "--user", "alice", "--from", "192.0.2.9", "--to", "127.0.0.1:80")
	var x object
	if err := json.Unmarshal([]byte(out), &x); err != nil || x["result"] != "deny" || x["stage"] != "accept" || x["by"] != "ban" || x["addresses"].([]any)[0].(object)["rule"] != "acl.rules[1]" {
		t.Errorf("%v: %s", err, out)
	}
}
