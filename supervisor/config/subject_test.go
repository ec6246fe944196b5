package config

import (
	"slices"
	"strings"
	"testing"
)

const twoUsers = `
[[user]]
name = "alice"
password_hash = "$2b$04$eO3CSQqCOgyTvX.iAAUeVeYF0xFKCRfgfZ7JAtwKUIszCoDKBeMuu"
groups = ["staff"]
[[user]]
name = "bob"
password_hash = "$2b$04$eO3CSQqCOgyTvX.iAAUeVeYF0xFKCRfgfZ7JAtwKUIszCoDKBeMuu"
`

// TestRulesForNobody: a denial for "Alice" was accepted without a word where
// the user is called alice, and so denied nobody.
func TestRulesForNobody(t *testing.T) {
	for _, tt := range []struct{ name, file, want string }{
		{"user", "[[acl.rule]]\naction = \"deny\"\nusers = [\"Alice\"]\n", `acl.rule[0].users: there is no user "Alice"; did you mean alice?`},
		{"group", "[[acl.rule]]\naction = \"deny\"\ngroups = [\"staf\"]\n", `acl.rule[0].groups: there is no group "staf"; did you mean staff?`},
		{"forward", "[[forward]]\nusers = [\"bobb\"]\nupstream = \"reject\"\n", `forward[0].users: there is no user "bobb"; did you mean bob?`},
		{"all there", "[[acl.rule]]\naction = \"deny\"\nusers = [\"alice\"]\ngroups = [\"staff\"]\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := load(t, tt.file+twoUsers, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			said := slices.ContainsFunc(cfg.Warnings, func(w string) bool { return strings.Contains(w, tt.want) && strings.Contains(w, "c.toml:") })
			if tt.want != "" && !said || tt.want == "" && len(cfg.Warnings) > 0 {
				t.Errorf("got %q", cfg.Warnings)
			}
			_, err = load(t, "[acl]\nstrict = true\n"+tt.file+twoUsers, nil, nil)
			if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("strict: %v", err)
			}
		})
	}
}

// TestRulesForNoListener: a denial at "ofice" denied nothing, and a route for it left
// its clients without one, with a warning that nobody read. Users come and go;
// listeners are all in the settings, so that a name of none is an error. With -p in
// the place of all of them it is still a warning: somebody tries something.
func TestRulesForNoListener(t *testing.T) {
	const office = "[[listener]]\nname = \"office\"\naddress = \"127.0.0.1:1080\"\n[[listener]]\naddress = \"[::1]:1080\"\n"
	for _, tt := range []struct{ name, file, want string }{
		{"rule", "[[acl.rule]]\naction = \"deny\"\nlisteners = [\"ofice\"]\n", `acl.rule[0].listeners: there is no listener "ofice"; did you mean office?`},
		{"forward", "[[forward]]\nlisteners = [\"127.0.0.1:1080\"]\nupstream = \"reject\"\n", `forward[0].listeners: there is no listener "127.0.0.1:1080"`},
		{"all there", "[[acl.rule]]\naction = \"deny\"\nlisteners = [\"office\", \"[::1]:1080\"]\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, tt.file+office, nil, nil)
			if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v", err)
			}
			if _, err := load(t, tt.file+office, nil, []string{"-p", "1081"}); err != nil {
				t.Errorf("with -p: %v", err)
			}
		})
	}
}

// TestVariablesWithSingleUnderscores: CLEVERSOCKS_AUTH_REQUIRED=true was
// ignored without a word, and the proxy was open.
func TestVariablesWithSingleUnderscores(t *testing.T) {
	for _, tt := range []struct{ env, meant string }{
		{"CLEVERSOCKS_AUTH_REQUIRED=true", "CLEVERSOCKS_AUTH__REQUIRED"},
		{"CLEVERSOCKS_AUTH_PASSWORD=secret", "CLEVERSOCKS_AUTH__PASSWORD"},
		{"CLEVERSOCKS_AUTH_NO_PASSWORD_FROM=10.0.0.0/8", "CLEVERSOCKS_AUTH__NO_PASSWORD_FROM"},
		{"CLEVERSOCKS_ACL_BLOCK_PRIVATE=true", "CLEVERSOCKS_ACL__BLOCK_PRIVATE"},
		{"cleversocks_acl__default=deny", "CLEVERSOCKS_ACL__DEFAULT"},
	} {
		_, err := load(t, "", []string{tt.env}, nil)
		if err == nil || !strings.Contains(err.Error(), tt.meant) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", tt.env, err)
		}
	}
	cfg, err := load(t, "", []string{
		"CLEVERSOCKS_LOG_LEVEL=debug", "CLEVERSOCKS_PORT=tcp://10.0.0.1:1080", "CLEVERSOCKS_SERVICE_HOST=10.0.0.1",
		"CLEVERSOCKS_PORT_1080_TCP_ADDR=10.0.0.1", "CLEVERSOCKS_AUTH_SERVICE_HOST=10.0.0.1", "CLEVERSOCKS_VERSION=1",
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Warnings) != 1 || !strings.Contains(cfg.Warnings[0], "CLEVERSOCKS_LOG_LEVEL is ignored") || !strings.Contains(cfg.Warnings[0], "CLEVERSOCKS_LOG__LEVEL") {
		t.Errorf("got %q", cfg.Warnings)
	}
}
