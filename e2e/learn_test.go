package e2e

import (
	"strings"
	"testing"
)

// An allowlist is made of what acl.report_only let pass: in front of nothing
// but a denial it lets the same through, and nothing else.
func TestLearn(t *testing.T) {
	one, two, other := echoServer(t, "127.0.0.1:0"), echoServer(t, "127.0.0.2:0"), echoServer(t, "127.0.0.3:0")
	const users = "[auth]\nallow_plain_passwords = true\n[[user]]\nname = \"alice\"\npassword = \"x\"\n[[user]]\nname = \"bob\"\npassword = \"x\"\n"
	d := start(t, withAPI(t, users+"[acl]\ndefault = \"deny\"\nreport_only = true\n"))
	for _, user := range []string{"alice", "bob"} {
		open(t, d, user, "x", one).Close()
		open(t, d, user, "x", two).Close()
	}
	open(t, d, "alice", "x", two).Close()
	eventually(t, "all are logged", func() bool { return strings.Count(d.log(), "would be denied") >= 5 })
	token := writeFile(t, "token", adminToken+"\n")
	d.listsReports(two.String(), token)
	rules, stderr, code := command(t, d.log(), "learn")
	if code != 0 || strings.Count(rules, "[[acl.rule]]") != 2 || !strings.Contains(rules, "# 5 requests that rules denied") ||
		!strings.Contains(rules, "users = [\"alice\", \"bob\"]\nto = [\n  \"127.0.0.2\",  # 3\n]\nports = ["+port(two.String())+"]") {
		t.Fatalf("status %d: %s%s", code, rules, stderr)
	}
	if out, stderr, code := command(t, "", "check", "--config", writeFile(t, "rules.toml", rules)); code != 0 {
		t.Errorf("check: status %d: %s%s", code, out, stderr)
	}
	strict := start(t, withAPI(t, users+"[acl]\ndefault = \"deny\"\n"+rules))
	open(t, strict, "bob", "x", one)
	open(t, strict, "alice", "x", two)
	if reply := request(t, login(t, strict.address, "127.0.0.1", "bob", "x"), 1, other); reply != notAllowed {
		t.Errorf("what was not asked for: reply %d", reply)
	}
	eventually(t, "the daemon tells of its denials", func() bool {
		more, _, code := command(t, "", "learn", "--admin", strict.admin, "--token-file", token, "--json")
		return code == 0 && strings.Contains(more, `"host": "127.0.0.3"`) && strings.Contains(more, `"bob"`)
	})
	if _, _, code := command(t, "", "learn", "/nonexistent/log"); code != 2 {
		t.Errorf("status %d", code)
	}
}

// listsReports looks at what was let pass among the recent denials: marked, once
// for each client and target, with how often, and learn makes the same rules of it.
func (d *daemon) listsReports(twice, token string) {
	d.t.Helper()
	var denials []object
	eventually(d.t, "all are listed", func() bool {
		d.call("GET", "/api/v1/denials", nil, &denials)
		count := 0.0
		for _, one := range denials {
			count += one["count"].(float64)
		}
		return len(denials) == 4 && count == 5
	})
	for _, one := range denials {
		if one["reported"] != true || !strings.Contains(one["sentence"].(string), "acl.report_only let it pass") || !strings.Contains(one["allow"].(string), "users = [") {
			d.t.Errorf("%v", one)
		}
		if want := 2.0; one["user"] == "alice" && one["target"] == twice && one["count"] != want {
			d.t.Errorf("%v, want it %v times", one, want)
		}
	}
	out, stderr, code := command(d.t, "", "learn", "--admin", d.admin, "--token-file", token)
	if code != 0 || !strings.Contains(out, "# 5 requests") || !strings.Contains(out, "\"127.0.0.2\",  # 3") {
		d.t.Errorf("learn: %d %s%s", code, out, stderr)
	}
	out, _, _ = command(d.t, "", "denials", "--admin", d.admin, "--token-file", token)
	if !strings.Contains(out, "twice") && !strings.Contains(out, "2 times") {
		d.t.Errorf("denials: %s", out)
	}
}
