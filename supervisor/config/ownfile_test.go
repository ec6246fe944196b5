package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A file of passwords that every user may read is refused, and the same
// passwords written into a configuration that every user may read went by
// without a word.
func TestReadableConfigurationWithSecrets(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"password":       {"[auth]\nuser='a'\npassword='b'\n", 0o644, "c.toml:3:1: auth.password stands"},
		"hash":           {"[[user]]\nname='a'\npassword_hash='$2b$04$" + strings.Repeat("a", 53) + "'\n", 0o644, "c.toml:3:1: user[0].password_hash stands"},
		"upstream":       {"[[upstream]]\nname='a'\nvia=['socks5://joe:s3cret@b']\n[[forward]]\nupstream='a'\n", 0o644, "c.toml:3:1: upstream[0].via stands"},
		"no secret":      {"[[upstream]]\nname='a'\nvia=['socks5://b']\n[[forward]]\nupstream='a'\n", 0o644, ""},
		"not readable":   {"[auth]\nuser='a'\npassword='b'\n", 0o640, ""},
		"an override":    {"[auth]\nuser='a'\npassword='b'\n[secrets]\nallow_world_readable=true\n", 0o644, ""},
		"a file instead": {"[auth]\nuser='a'\npassword_file='PASSWORD'\n", 0o644, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path, password := filepath.Join(dir, "c.toml"), filepath.Join(dir, "password")
			for file, text := range map[string]string{path: strings.Replace(tt.text, "PASSWORD", password, 1), password: "x\n"} {
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chmod(path, tt.mode); err != nil {
				t.Fatal(err)
			}
			cfg, err := NewLoader(Sources{File: path}).Load(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, w := range cfg.Warnings {
				if strings.Contains(w, "every user may read it") {
					got += w
				}
			}
			if !strings.Contains(got, tt.want) || tt.want == "" && got != "" || strings.Contains(got, "s3cret") {
				t.Errorf("warned %q, want %q", got, tt.want)
			}
		})
	}
}
