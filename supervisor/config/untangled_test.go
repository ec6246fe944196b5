package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// One slip was told as two: what was left of a value that had been refused was
// judged once more, and the first line of the two was wrong about the cause.
func TestOneSlipIsToldOnce(t *testing.T) {
	for name, tt := range map[string]struct{ file, want string }{
		"no table":    {"listener = 'a'\n", "c.toml:1:1: listener: must be tables: write [[listener]]"},
		"bad scheme":  {"[[upstream]]\nname = 'a'\nvia = ['socks://b']\n", "c.toml:3:1: upstream[0].via: element 1: unknown scheme"},
		"a ban":       {"[limits]\nauth_failures = { ban = '2h' }\n", "c.toml:2:19: limits.auth_failures.ban: is 2h, more than limits.auth_failures.ban_max (1h)"},
		"two of one":  {"[auth]\nuser = 'a'\npassword = 'x'\nallow_plain_passwords = true\n[[user]]\nname = 'a'\npassword = 'y'\n", "c.toml:2:1: auth.user: user \"a\" has a password already ("},
		"no upstream": {"[[forward]]\nrewrite = 'a:1'\n", "c.toml:1:3: forward[0].upstream: is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, tt.file, nil, nil)
			if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q alone", err, tt.want)
			}
		})
	}
}

// That half of a certificate is missing was said of the flag for the port, or of
// the listener's first line.
func TestHalfACertificate(t *testing.T) {
	for want, args := range map[string][]string{
		"flag --tls-cert: listener[0].tls.key: is needed": {"-p", "0", "--tls-cert", "c"},
		"flag --tls-key: listener[0].tls.cert: is needed": {"-p", "0", "--tls-key", "k"},
		"c.toml:3:1: listener[0].tls.key: is needed":      nil,
	} {
		file := ""
		if args == nil {
			file = "[[listener]]\n[listener.tls]\ncert = 'c'\n"
		}
		if _, err := load(t, file, nil, args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", args, err)
		}
	}
}

// A key in quotes was told as if it stood without them: "log.level: unknown key; did
// you mean log.level?" An empty one had no place.
func TestQuotedKeys(t *testing.T) {
	for file, want := range map[string]string{
		`"log.level" = "debug"`:              `c.toml:1:1: "log.level": unknown key; did you mean log.level?`,
		`"" = 1`:                             `c.toml:1:1: "": unknown key`,
		"[log]\n'ä' = 1":                     `c.toml:2:1: log."ä": unknown key`,
		`"log"."level" = "x"`:                `c.toml:1:7: log.level: must be one of`,
		strings.Repeat("a", 70_000) + " = 1": "c.toml:1:1: " + strings.Repeat("a", 64) + "...: unknown key",
	} {
		if _, err := load(t, file, nil, nil); err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 300 {
			t.Errorf("%.60s: %.300v", file, err)
		}
	}
}

// A user whom the kernel tells of, or a certificate, was warned of as one who could
// not log in.
func TestWhoNeedsNoPassword(t *testing.T) {
	const user = "[[user]]\nname = 'alice'\n"
	warns := func(file string) bool {
		c, err := load(t, file, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(c.Warnings, func(w string) bool { return strings.Contains(w, "no way to log in") })
	}
	socket := filepath.Join(t.TempDir(), "s")
	if !warns(user) || !warns(user+"[[listener]]\naddress = 'unix:"+socket+"'\nusers_by_uid = { 1 = 'bob' }\n") {
		t.Error("no warning of alice")
	}
	if warns(user + "[[listener]]\naddress = 'unix:" + socket + "'\nusers_by_uid = { 1 = 'alice' }\n") {
		t.Error("warned of a local user")
	}
}

// Whoever tries a proxy out, or dials addresses that answer at once or never,
// wants less than a second, and was refused.
func TestTimesBelowASecond(t *testing.T) {
	for _, file := range []string{
		"[limits]\nhandshake_timeout = '500ms'\nconnect_timeout = '250ms'\nidle_timeout = '1.5s'\n",
		"[udp]\nidle_timeout = '500ms'\n[bind]\naccept_timeout = '500ms'\n",
	} {
		if _, err := load(t, file, nil, nil); err != nil {
			t.Errorf("%s%v", file, err)
		}
	}
}

// A token that is short was an error, as if it opened something. It is the
// operator's own choice, and loopback's alone by default: a warning is enough. An
// empty one is no token.
func TestShortToken(t *testing.T) {
	write := func(content string) string {
		path := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return "[admin]\ntoken_file = '" + path + "'\n"
	}
	warned := func(c *Config) bool {
		return slices.ContainsFunc(c.Warnings, func(w string) bool { return strings.Contains(w, "can be guessed") })
	}
	if c, err := load(t, write("secret\n"), nil, nil); err != nil || c.Admin.Token.Reveal() != "secret" || !warned(c) {
		t.Errorf("short: %v", err)
	}
	if c, err := load(t, write(strings.Repeat("x", goodToken)), nil, nil); err != nil || warned(c) {
		t.Errorf("long enough: %v", err)
	}
	for _, empty := range []string{"", "\n", " \n"} {
		if _, err := load(t, write(empty), nil, nil); err == nil || !strings.Contains(err.Error(), "the token is empty") {
			t.Errorf("%q: %v", empty, err)
		}
	}
}

// Lists of 100,000 addresses and as many names were refused in the settings
// themselves, where only a file: list could hold them.
func TestLongLists(t *testing.T) {
	var b strings.Builder
	b.WriteString("[[acl.rule]]\naction = 'deny'\nto = [")
	for i := range 20_000 {
		fmt.Fprintf(&b, "'h%d.example',\n", i)
	}
	b.WriteString("]\n")
	if c, err := load(t, b.String(), nil, nil); err != nil || len(c.ACL.Rules[0].To) != 20_000 {
		t.Error(err)
	}
}
