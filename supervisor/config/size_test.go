package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// many is a configuration with so many users, each with a few keys.
func many(users int) string {
	var b strings.Builder
	b.WriteString("[auth]\nallow_plain_passwords = true\n")
	for i := range users {
		fmt.Fprintf(&b, "[[user]]\nname = \"user%d\"\npassword = \"pw%d\"\ngroups = [\"g%d\"]\nmax_connections = 10\n", i, i, i%50)
	}
	return b.String()
}

// TestManyUsers: 10,000 users took half a minute of processor time at each
// start, reload and healthcheck, since the position of each key was counted
// from the top of the file. The place of the last one must still be right.
func TestManyUsers(t *testing.T) {
	const users = 10_000
	cfg, err := load(t, many(users), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(cfg.Users); n != users {
		t.Fatalf("%d users", n)
	}
	_, err = load(t, many(users-1)+"[[user]]\nname = \"last\"\n  max_connections = -1\n", nil, nil)
	want := fmt.Sprintf("c.toml:%d:3: user[%d].max_connections: ", 2+5*(users-1)+3, users-1)
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

func BenchmarkManyUsers(b *testing.B) {
	path := filepath.Join(b.TempDir(), "c.toml")
	if err := os.WriteFile(path, []byte(many(10_000)), 0o600); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := NewLoader(Sources{File: path}).Load(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// TestMarkedFiles: editors of Windows put a byte order mark in front of a file,
// or write UTF-16. The first locked a user out, the second was called garbage.
func TestMarkedFiles(t *testing.T) {
	cfg, err := load(t, "\xef\xbb\xbf[log]\nlevel = \"warn\"\n", nil, nil)
	if err != nil || cfg.Log.Level != "warn" {
		t.Errorf("%+v, %v", cfg, err)
	}
	if _, err := load(t, "\xff\xfe[\x00l\x00", nil, nil); err == nil || !strings.Contains(err.Error(), "UTF-16") {
		t.Errorf("UTF-16: %v", err)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	for text, fault := range map[string]string{"\xef\xbb\xbfjoe:pässword\r\n": "", "\xff\xfej\x00": "UTF-16"} {
		if err := os.WriteFile(secret, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := load(t, "", nil, []string{"--credentials-file", secret})
		switch {
		case fault == "" && (err != nil || cfg.Auth.Credential.User != "joe" || cfg.Auth.Credential.Password.Reveal() != "pässword"):
			t.Errorf("%q: %v", text, err)
		case fault != "" && (err == nil || !strings.Contains(err.Error(), fault)):
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestAdminAlone: a healthcheck read and judged all settings, and called a
// daemon dead whose file had a mistake that a reload had refused.
func TestAdminAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.toml")
	text := "[admin]\naddress = \"127.0.0.1:99\"\ntoken_file = \"/nowhere\"\n[nonsense]\nx = 1\n[[user]]\nname = 3\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	admin, err := NewLoader(Sources{File: path, Environ: []string{"CLEVERSOCKS_LOG__NONSENSE=1"}}).LoadAdmin(t.Context())
	if err != nil || admin.Address.String() != "127.0.0.1:99" {
		t.Errorf("%v, %v", admin.Address, err)
	}
	admin, err = NewLoader(Sources{File: path, Environ: []string{"CLEVERSOCKS_ADMIN__ADDRESS=[::1]:7"}}).LoadAdmin(t.Context())
	if err != nil || admin.Address.String() != "[::1]:7" {
		t.Errorf("%v, %v", admin.Address, err)
	}
	for _, bad := range []string{"[admin]\naddress = 7\n", "[admin\n"} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := NewLoader(Sources{File: path}).LoadAdmin(t.Context()); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
