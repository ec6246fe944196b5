package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const closedDoor = "[auth]\nuser = 'joe'\npassword = 'hunter2'\n"

// TestFileFromPipe: the second reading of `--config <(...)` met the end of the
// pipe, and an empty document is valid: SIGHUP turned authentication off.
func TestFileFromPipe(t *testing.T) {
	path := pipeWith(t, closedDoor)
	l := NewLoader(Sources{File: path})
	for i := range 3 {
		c, err := l.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !c.Auth.Required {
			t.Fatalf("load %d: no authentication", i)
		}
		if said := strings.Contains(strings.Join(c.Warnings, "\n"), "cannot be read again"); said != (i > 0) {
			t.Errorf("load %d: warnings %q", i, c.Warnings)
		}
	}
}

// A command that fails writes nothing into its pipe. That is no wish for the
// defaults.
func TestFileFromEmptyPipe(t *testing.T) {
	if _, err := NewLoader(Sources{File: pipeWith(t, "")}).Load(t.Context()); err == nil || !strings.Contains(err.Error(), "nothing came") {
		t.Errorf("got %v", err)
	}
}

// TestFileBecomesEmpty: a reload between the truncation and the write of an
// editor that saves in place found an empty file, and opened the proxy.
func TestFileBecomesEmpty(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.toml")
	l := NewLoader(Sources{File: path})
	for _, step := range []struct{ text, err string }{
		{"", ""}, // fine at the start
		{closedDoor, ""},
		{"\n", "is empty, and was not before"},
		{closedDoor, ""},
		{"# the defaults\n", ""},
	} {
		if err := os.WriteFile(path, []byte(step.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := l.Load(t.Context())
		if (err == nil) != (step.err == "") || err != nil && !strings.Contains(err.Error(), step.err) {
			t.Errorf("%q: %v, want %q", step.text, err, step.err)
		}
	}
}

// A file that was exchanged for a named pipe would hold the reload up until
// somebody writes.
func TestFileBecomesPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(path, []byte(closedDoor), 0o600); err != nil {
		t.Fatal(err)
	}
	l := NewLoader(Sources{File: path})
	if _, err := l.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Load(t.Context()); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("got %v", err)
	}
}

// pipeWith is a named pipe into which somebody writes text, once.
func pipeWith(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	written := make(chan struct{})
	t.Cleanup(func() { <-written })
	go func() {
		defer close(written)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Error(err)
		}
	}()
	return path
}
