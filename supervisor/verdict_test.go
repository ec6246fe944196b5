package supervisor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cleversocks/supervisor/config"
)

func loadText(t *testing.T, name, text string) *config.Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.NewLoader(config.Sources{File: path}).Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// The example is what it says.
func TestExampleOfCases(t *testing.T) {
	text, err := os.ReadFile("../examples/company.toml")
	if err != nil {
		t.Fatal(err)
	}
	file, err := config.ReadRuleCases("../examples/tests/company.toml")
	if err != nil {
		t.Fatal(err)
	}
	outcomes, err := JudgeCases(t.Context(), loadText(t, "company.toml", string(text)), file)
	if err != nil || len(outcomes) != 4 {
		t.Fatal(len(outcomes), err)
	}
	for _, o := range outcomes {
		if wrong := o.Wrong(); wrong != "" {
			t.Errorf("%s: %s\n%s", o.Where, wrong, o.Got.Text)
		}
	}
}

const strictDoors = `
[[listener]]
address = "127.0.0.1:0"
name = "office"
allow_from = ["10.0.0.0/8"]
users = ["alice"]
[[listener]]
address = "127.0.0.1:0"
name = "public"
[auth]
allow_plain_passwords = true
[[user]]
name = "alice"
password = "x"
groups = ["staff"]
[[user]]
name = "bob"
password = "x"
[[user]]
name = "off"
password = "x"
disabled = true
[[upstream]]
name = "exit"
via = ["socks5://198.51.100.1:1080"]
[[forward]]
to = ["*.onion"]
upstream = "exit"
[[forward]]
to = ["*.bad.example"]
upstream = "reject"
[acl]
default = "deny"
[[acl.rule]]
action = "allow"
groups = ["staff"]
to = ["*.onion", "198.51.100.0/24", "host.example"]
`

// Each stage may be what refuses: the rules would allow some of these.
func TestVerdicts(t *testing.T) {
	cfg := loadText(t, "c.toml", strictDoors)
	e, end, err := newExplainer(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	for _, tt := range []struct {
		ask            Question
		result, stage  string
		by             string
		says, upstream string
	}{
		{Question{User: "alice", From: "10.1.1.1", To: "198.51.100.9:443", Listener: "office"}, "allow", "request", "acl.rules[0]", "result: allow", ""},
		{Question{User: "alice", From: "192.0.2.1", To: "198.51.100.9:443", Listener: "office"}, "deny", "accept", "allow_from", "in all: deny, at the accept already, by allow_from", ""},
		{Question{User: "bob", From: "10.1.1.1", To: "198.51.100.9:443", Listener: "office"}, "deny", "login", "listener", "is not for user", ""},
		{Question{User: "bob", To: "198.51.100.9:443"}, "deny", "request", "block_private", "result: deny", ""},
		{Question{User: "off", To: "198.51.100.9:443"}, "deny", "login", "disabled", `user "off" may not log in: disabled`, ""},
		{Question{User: "eve", To: "198.51.100.9:443"}, "deny", "login", "user", "is unknown", ""},
		{Question{To: "198.51.100.9:443"}, "deny", "login", "authentication", "authentication: needed", ""},
		{Question{User: "alice", To: "x.onion:80"}, "allow", "request", "acl.rules[0]", "the upstream resolves", "exit"},
		{Question{User: "alice", To: "x.bad.example:80"}, "deny", "request", "forward[1]", "rejects it", ""},
	} {
		got, err := e.judge(t.Context(), tt.ask)
		if err != nil {
			t.Fatal(err)
		}
		if got.Result != tt.result || got.Stage != tt.stage || got.By != tt.by || !strings.Contains(got.Text, tt.says) {
			t.Errorf("%+v: %s at %s by %s\n%s", tt.ask, got.Result, got.Stage, got.By, got.Text)
		}
		if tt.upstream != "" && (got.Forward == nil || got.Forward.Upstream != tt.upstream) {
			t.Errorf("%+v: %+v", tt.ask, got.Forward)
		}
	}
	if _, err := e.judge(t.Context(), Question{To: "x:80", Listener: "none"}); err == nil {
		t.Error("a listener that does not exist")
	}
}

func TestCasesThatAreWrong(t *testing.T) {
	cfg := loadText(t, "c.toml", strictDoors)
	path := filepath.Join(t.TempDir(), "cases.toml")
	text := "[names]\n\"Host.Example.\" = [\"198.51.100.3\"]\n[[case]]\nuser = \"alice\"\nto = \"host.example:80\"\nexpect = \"deny\"\n" +
		"[[case]]\nuser = \"alice\"\nto = \"host.example:80\"\nexpect = \"allow\"\nrule = \"acl.rules[7]\"\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := config.ReadRuleCases(path)
	if err != nil {
		t.Fatal(err)
	}
	outcomes, err := JudgeCases(t.Context(), cfg, file)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"allow by acl.rules[0] (", "where acl.rules[7] is expected"} {
		if got := outcomes[i].Wrong(); !strings.Contains(got, want) || !strings.HasSuffix(outcomes[i].Where, []string{":3", ":7"}[i]) {
			t.Errorf("%s: %q, want %q", outcomes[i].Where, got, want)
		}
	}
	for text, want := range map[string]string{
		"":                                       "nothing to test",
		"[[case]]\nexpect = \"allow\"\n":         "cases.toml:1: to is missing",
		"[[case]]\nto = \"a:1\"\n":               "expect must be",
		"[[case]]\nto = \"a:1\"\nexpected = 1\n": "cases.toml:3:1: case.expected: unknown key",
		"[[case]\n":                              "cases.toml:1",
		"[names]\n\"a b\" = []\n":                "names.a b",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := config.ReadRuleCases(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}
