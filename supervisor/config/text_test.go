package config

import (
	"os"
	"path/filepath"
	"testing"
)

// A process that drains goes by the text that its successor has verified, not by what
// is in the file by then: that may be half of an edit, or one that nobody means yet.
func TestTextOfAnotherProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.toml")
	verified := "[log]\nlevel = \"debug\"\n"
	if err := os.WriteFile(path, []byte(verified), 0o600); err != nil {
		t.Fatal(err)
	}
	l := NewLoader(Sources{File: path})
	cfg, err := l.Load(t.Context())
	if err != nil || string(cfg.Text()) != verified {
		t.Fatalf("%q, %v", cfg.Text(), err)
	}
	if err := os.WriteFile(path, []byte("[log]\nlevel = \"deb"), 0o600); err != nil {
		t.Fatal(err)
	}
	if cfg, err = l.LoadText(t.Context(), []byte(verified)); err != nil || cfg.Log.Level != "debug" || string(cfg.Text()) != verified {
		t.Errorf("%+v, %v", cfg, err)
	}
	if _, err = l.LoadText(t.Context(), nil); err == nil {
		t.Error("without a text the file is not read")
	}
	if cfg, err = l.LoadText(t.Context(), []byte{}); err != nil || cfg.Log.Level != "info" || cfg.Text() == nil {
		t.Errorf("an empty file: %+v, %v", cfg, err)
	}
	if cfg, err = NewLoader(Sources{}).LoadText(t.Context(), []byte("junk")); err != nil || cfg.Text() != nil {
		t.Errorf("without a file: %v", err)
	}
}
