package config

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A reload while DNS was down failed for a listener by name, though its socket
// was open and stayed: the address that the name had is as good as before.
func TestListenerNameWhileDNSIsDown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.toml")
	write := func(host string) {
		t.Helper()
		if err := os.WriteFile(path, []byte("[[listener]]\naddress = \""+host+":1080\"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var down error
	l := NewLoader(Sources{File: path})
	l.names.lookUp = func(context.Context, string, string) ([]netip.Addr, error) {
		if down != nil {
			return nil, down
		}
		return []netip.Addr{netip.MustParseAddr("::1"), netip.MustParseAddr("192.0.2.7")}, nil
	}
	write("proxy.example")
	if _, err := l.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	down = errors.New("no server answers")
	cfg, err := l.Load(t.Context())
	if err != nil {
		t.Fatalf("a reload without DNS: %v", err)
	}
	if got := cfg.Listeners[0].Address.String(); got != "192.0.2.7:1080" {
		t.Errorf("it listens on %s", got)
	}
	if w := strings.Join(cfg.Warnings, "\n"); !strings.Contains(w, `"proxy.example" cannot be resolved now (no server answers)`) {
		t.Errorf("warnings %q", w)
	}
	write("new.example") // has never had an address
	if _, err := l.Load(t.Context()); err == nil || !strings.Contains(err.Error(), `"new.example" cannot be resolved`) {
		t.Errorf("a new name without DNS: %v", err)
	}
}
