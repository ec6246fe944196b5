package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestEffectiveLoadsAgain: what check prints is a file with the same meaning.
func TestEffectiveLoadsAgain(t *testing.T) {
	c, err := load(t, "[limits]\nidle_timeout='90s'\n[[listener]]\naddress='[::1]:2'\nreuse_port=2\n[[listener]]\naddress='127.0.0.1:0'\n", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var first, second strings.Builder
	if err = c.WriteTOML(&first, nil, Masked); err != nil {
		t.Fatal(err)
	}
	again, err := load(t, first.String(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.WriteTOML(&second, nil, Masked); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(withoutOrigins(first.String()), withoutOrigins(second.String())); d != "" {
		t.Error(d)
	}
}

// What "check" printed of a user in two layers was refused as a file: the source that
// had lost stood beside the one that had won.
func TestOverruledCredentialIsNotInForce(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	line, password := write("line", "low:lowpw"), write("password", "filepw")
	byLine, byFile, byKey := "[auth]\ncredentials_file='"+line+"'\n", "[auth]\nuser='low'\npassword_file='"+password+"'\n", "[auth]\nuser='low'\npassword='lowpw'\n"
	for _, tt := range []struct {
		file     string
		environ  []string
		args     []string
		user, pw string
	}{
		{byLine, nil, []string{"-ua", "-Pb"}, "a", "b"},
		{byLine, []string{"CLEVERSOCKS_AUTH__USER=a", "CLEVERSOCKS_AUTH__PASSWORD=b"}, nil, "a", "b"},
		{byLine, nil, []string{"-ua", "--password-file", password}, "a", "filepw"},
		{byFile, nil, []string{"-Pb"}, "low", "b"},
		{byKey, nil, []string{"--password-file", password}, "low", "filepw"},
		{byKey, nil, []string{"--credentials-file", line}, "low", "lowpw"},
		{byFile, []string{"CLEVERSOCKS_AUTH__CREDENTIALS_FILE=" + line}, nil, "low", "lowpw"},
	} {
		c, err := load(t, tt.file, tt.environ, tt.args)
		if err != nil {
			t.Fatal(err)
		}
		var printed strings.Builder
		if err = c.WriteTOML(&printed, nil, Revealed); err != nil {
			t.Fatal(err)
		}
		again, err := load(t, printed.String(), nil, nil)
		if err != nil {
			t.Errorf("%s %v %v: %v", tt.file, tt.environ, tt.args, err)
			continue
		}
		for _, c := range []*Config{c, again} {
			if got := c.Auth.Credential; got == nil || got.User != tt.user || got.Password.Reveal() != tt.pw {
				t.Errorf("%s %v %v: %v", tt.file, tt.environ, tt.args, got)
			}
		}
	}
}
