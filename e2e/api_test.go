package e2e

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

const adminToken = "a token of 24 characters"

// withAPI is the settings of a daemon whose API has a token.
func withAPI(t *testing.T, more string) string {
	t.Helper()
	return more + "\n[admin]\naddress = \"127.0.0.1:0\"\npprof = true\ntoken_file = '" + writeFile(t, "token", adminToken+"\n") + "'\n"
}

// call sends a request with the token and decodes the answer.
func (d *daemon) call(method, path string, body, into any) int {
	d.t.Helper()
	var send io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			d.t.Fatal(err)
		}
		send = strings.NewReader(string(b))
	}
	req, err := http.NewRequest(method, "http://"+d.admin+path, send)
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+adminToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	if into != nil && resp.StatusCode == 200 {
		if err := json.Unmarshal(answer, into); err != nil {
			d.t.Fatalf("%s %s: %v in %s", method, path, err, answer)
		}
	}
	return resp.StatusCode
}

type object = map[string]any

const apiSettings = `
[auth]
allow_plain_passwords = true
once = { enabled = true }
[[user]]
name = "alice"
password = "correct horse"
groups = ["staff"]
quota = { bytes = "1GiB", period = "24h" }
[[acl.rule]]
action = "deny"
to = ["127.0.0.9"]
[[acl.rule]]
action = "allow"
to = ["127.0.0.0/8"]
[[upstream]]
name = "exit"
members = ["socks5://127.0.0.1:1", "socks5://127.0.0.1:2"]
[[forward]]
to = ["*.test"]
upstream = "exit"
`

// An operator finds a session and what it does, closes it, sees who was denied
// and what would allow it, and steers bans, upstreams, names and the log.
func TestAPI(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	d := start(t, withAPI(t, apiSettings))
	c := login(t, d.address, "127.0.0.1", "alice", "correct horse")
	if reply := request(t, c, 1, echo); reply != succeeded {
		t.Fatalf("reply %d", reply)
	}
	echoes(t, c, "hello")
	var page struct {
		Sessions []object
		Total    int
	}
	eventually(t, "the bytes are counted", func() bool {
		d.call("GET", "/api/v1/sessions?user=alice&sort=bytes&limit=1", nil, &page)
		return page.Total == 1 && page.Sessions[0]["bytes_out"] == 5.0
	})
	if s := page.Sessions[0]; s["target"] != echo.String() || s["client"] != c.LocalAddr().String() || s["rule"] != "acl.rules[1]" || s["command"] != "connect" {
		t.Errorf("%v", s)
	}
	if d.call("GET", "/api/v1/sessions?user=bob", nil, &page); page.Total != 0 {
		t.Errorf("bob has %v", page.Sessions)
	}
	for path, want := range map[string]int{"?sort=x": 400, "?limit=-1": 400, "/none": 404} {
		if got := d.call("GET", "/api/v1/sessions"+path, nil, nil); got != want {
			t.Errorf("sessions%s: %d", path, got)
		}
	}
	var users []object
	if d.call("GET", "/api/v1/users", nil, &users); len(users) != 1 || users[0]["connections"] != 1.0 || users[0]["quota"].(object)["used"].(float64) < 5 {
		t.Errorf("users: %v", users)
	}
	if got := d.call("DELETE", "/api/v1/sessions", nil, nil); got != 400 {
		t.Errorf("closing everything without a condition: %d", got)
	}
	var closed object
	if d.call("DELETE", "/api/v1/sessions?user=alice", nil, &closed); closed["closed"] != 1.0 {
		t.Errorf("closed %v", closed)
	}
	if _, err := io.ReadAll(c); err == nil {
		t.Error("no reset of what was closed")
	}
	if r := d.record(echo.String()); r["cause"] != "revoked" {
		t.Errorf("cause %v", r["cause"])
	}

	c = login(t, d.address, "127.0.0.1", "alice", "correct horse")
	if _, err := c.Write([]byte{5, 1, 0, 1, 127, 0, 0, 9, 0, 80}); err != nil {
		t.Fatal(err)
	}
	if code := readReply(t, c); code != 2 {
		t.Errorf("reply %d", code)
	}
	// A stranger's guess under her name is no denial by a rule: it stood in the
	// list with a rule that would let her go where the stranger wanted to.
	guess := dialProxyFrom(t, d.address, "127.0.0.2")
	send(t, guess, []byte("CONNECT 127.0.0.9:81 HTTP/1.1\r\nProxy-Authorization: Basic "+base64.StdEncoding.EncodeToString([]byte("alice:guess"))+"\r\n\r\n")...)
	if r := d.record("127.0.0.9:81"); r["cause"] != "denied" {
		t.Errorf("a guess: %v", r)
	}
	var denials []object
	eventually(t, "the denial is listed", func() bool { d.call("GET", "/api/v1/denials", nil, &denials); return len(denials) == 1 })
	if one := denials[0]; one["rule"] != "acl.rules[0]" || !strings.Contains(fmt.Sprint(one["where"]), "cleversocks.toml:") ||
		!strings.Contains(fmt.Sprint(one["sentence"]), "user alice from 127.0.0.1 may not connect to 127.0.0.9:80") ||
		!strings.Contains(fmt.Sprint(one["allow"]), "users = [\"alice\"]\nto = [\"127.0.0.9\"]\nports = [80]") {
		t.Errorf("%v", one)
	}
	d.steer()
}

// steer tries what changes the daemon.
func (d *daemon) steer() {
	t := d.t
	t.Helper()
	for _, tt := range []struct {
		method, path string
		body         any
		want         int
	}{
		{"POST", "/api/v1/bans", object{"source": "192.0.2.9", "duration": "10m"}, 200},
		{"POST", "/api/v1/bans", object{"source": "nonsense"}, 400},
		{"POST", "/api/v1/bans", object{"source": "192.0.2.9", "extra": 1}, 400},
		{"DELETE", "/api/v1/bans/192.0.2.9/32", nil, 204},
		{"DELETE", "/api/v1/bans/192.0.2.9/32", nil, 404},
		{"POST", "/api/v1/whitelist", object{"address": "192.0.2.7", "user": "alice"}, 200},
		{"POST", "/api/v1/whitelist", object{"address": "192.0.2.7", "user": "nobody"}, 400},
		{"DELETE", "/api/v1/whitelist/192.0.2.7", nil, 204},
		{"DELETE", "/api/v1/whitelist/192.0.2.7", nil, 404},
		{"PUT", "/api/v1/upstreams/exit/drain", object{"member": "socks5://127.0.0.1:1", "drained": true}, 204},
		{"PUT", "/api/v1/upstreams/none/drain", object{"member": "x", "drained": true}, 404},
		{"PUT", "/api/v1/log", object{"level": "trace"}, 204},
		{"PUT", "/api/v1/log", object{"level": "loud"}, 400},
		{"DELETE", "/api/v1/dns?name=nothing.test", nil, 200},
		{"POST", "/api/v1/reload", nil, 200},
		{"PUT", "/api/v1/status", nil, 405}, // was told that there is no such path
		{"GET", "/api/v1/drain", nil, 405},
		{"PUT", "/api/v1/none", nil, 404},
	} {
		if got := d.call(tt.method, tt.path, tt.body, nil); got != tt.want {
			t.Errorf("%s %s %v: %d, want %d", tt.method, tt.path, tt.body, got, tt.want)
		}
	}
	var upstreams []struct{ Members []object }
	if d.call("GET", "/api/v1/upstreams", nil, &upstreams); len(upstreams) != 1 || upstreams[0].Members[0]["drained"] != true {
		t.Errorf("upstreams: %v", upstreams)
	}
	var status object
	if d.call("GET", "/api/v1/status", nil, &status); status["reload"].(object)["ok"] != true || status["generation"] != 2.0 {
		t.Errorf("status: %v", status)
	}
	if status, body := d.api("GET", "/api/v1/config", adminToken); status != 200 || strings.Contains(body, "correct horse") || !strings.Contains(body, `name = "alice"`) {
		t.Errorf("config: %d %s", status, body)
	}
	if got := d.call("POST", "/api/v1/drain", nil, nil); got != 204 {
		t.Errorf("drain: %d", got)
	}
	if code := d.exitCode(); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

// The document that the server gives of itself is true of its answers.
func TestOpenAPI(t *testing.T) {
	d := start(t, withAPI(t, apiSettings))
	c, _ := connect2(t, d)
	defer c.Close()
	d.call("POST", "/api/v1/bans", object{"source": "192.0.2.9"}, nil)
	var doc any
	if got := d.call("GET", "/api/v1/openapi.json", nil, &doc); got != 200 {
		t.Fatalf("%d", got)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("api.json", doc); err != nil {
		t.Fatal(err)
	}
	n := 0
	for path, item := range doc.(object)["paths"].(object) {
		op, ok := item.(object)["get"].(object)
		if !ok || strings.Contains(path, "{") || strings.Contains(path, "events") {
			continue
		}
		content := op["responses"].(object)["200"].(object)["content"].(object)
		if content["application/json"] == nil {
			continue
		}
		pointer := "api.json#/paths/" + strings.ReplaceAll(strings.ReplaceAll(path, "~", "~0"), "/", "~1") + "/get/responses/200/content/application~1json/schema"
		schema, err := compiler.Compile(pointer)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		var answer any
		if path == "/api/v1/decision" {
			path += "?to=127.0.0.9:80"
		}
		if got := d.call("GET", path, nil, &answer); got != 200 {
			t.Errorf("%s: %d", path, got)
		}
		if err := schema.Validate(answer); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		n++
	}
	if n < 9 {
		t.Errorf("only %d paths were tried", n)
	}
}

// connect2 opens a tunnel as alice.
func connect2(t *testing.T, d *daemon) (net.Conn, string) {
	t.Helper()
	echo := echoServer(t, "127.0.0.1:0")
	c := login(t, d.address, "127.0.0.1", "alice", "correct horse")
	if reply := request(t, c, 1, echo); reply != succeeded {
		t.Fatalf("reply %d", reply)
	}
	return c, echo.String()
}

// follow follows the event stream; next is the next event of a name, as JSON.
func (d *daemon) follow() (next func(event string) string) {
	t := d.t
	t.Helper()
	req, _ := http.NewRequest("GET", "http://"+d.admin+"/api/v1/events", nil)
	req.Header.Set("Authorization", "Bearer "+adminToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(resp.Body)
	overdue := time.AfterFunc(patience, func() { resp.Body.Close() })
	t.Cleanup(func() { overdue.Stop(); resp.Body.Close() })
	if !lines.Scan() || lines.Text() != ": CleverSocks" {
		t.Fatalf("begins with %q", lines.Text())
	}
	return func(event string) string {
		t.Helper()
		for lines.Scan() {
			if lines.Text() == "event: "+event && lines.Scan() {
				return lines.Text()
			}
		}
		t.Fatalf("no event %s: %v", event, lines.Err())
		return ""
	}
}

// The event stream tells of sessions, denials, bans and reloads as they come.
func TestEvents(t *testing.T) {
	d := start(t, withAPI(t, apiSettings))
	next := d.follow()
	c, target := connect2(t, d)
	if data := next("opened"); !strings.Contains(data, target) || !strings.Contains(data, `"user":"alice"`) {
		t.Errorf("opened: %s", data)
	}
	c.Close()
	if data := next("closed"); !strings.Contains(data, target) || !strings.Contains(data, `"cause":"client_`) {
		t.Errorf("closed: %s", data)
	}
	d.call("POST", "/api/v1/bans", object{"source": "192.0.2.9"}, nil)
	if data := next("banned"); !strings.Contains(data, "192.0.2.9/32") {
		t.Errorf("banned: %s", data)
	}
	d.signal(syscall.SIGHUP)
	if data := next("reloaded"); !strings.Contains(data, `"ok":true`) {
		t.Errorf("reloaded: %s", data)
	}
}

// Nobody steers without the token.
func TestAPINeedsTheToken(t *testing.T) {
	d := start(t, withAPI(t, apiSettings))
	for _, token := range []string{"", "wrong"} {
		for _, path := range []string{"/api/v1/status", "/api/v1/sessions", "/api/v1/openapi.json", "/api/v1/none"} {
			if status, _ := d.api("GET", path, token); status != 401 {
				t.Errorf("%s with token %q: %d", path, token, status)
			}
		}
	}
	d = start(t, "")
	if status, _ := d.api("GET", "/api/v1/status", ""); status != 404 {
		t.Errorf("without a token in the settings: %d", status)
	}
}
