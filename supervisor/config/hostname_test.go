package config

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
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

// Scripts written for microsocks and CleverSocks 1 name hosts in -w and -b, which were
// refused as no addresses. What a name meant stays while DNS is down, as for listeners.
func TestNamesInFlags(t *testing.T) {
	load := func(l *Loader) (*Config, error) { return l.Load(t.Context()) }
	with := func(args ...string) *Loader {
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		RegisterFlags(fs, nil)
		if err := fs.Parse(append([]string{"-ua", "-Pbb"}, args...)); err != nil {
			t.Fatal(err)
		}
		return NewLoader(Sources{Flags: fs})
	}
	var down error
	lookUp := func(_ context.Context, _, host string) ([]netip.Addr, error) {
		if down != nil || host != "office.example" {
			return nil, cmp.Or(down, errors.New("no such host"))
		}
		return []netip.Addr{netip.MustParseAddr("::ffff:192.0.2.7")}, nil
	}
	l := with("-w", "10.0.0.0/8, office.example,::1", "-b", "office.example")
	l.names.lookUp = lookUp
	for _, down = range []error{nil, errors.New("no server answers")} {
		cfg, err := load(l)
		if err != nil {
			t.Fatalf("%v: %v", down, err)
		}
		if got := fmt.Sprint(cfg.Auth.NoPasswordFrom, cfg.Egress.Address); got != "[10.0.0.0/8 192.0.2.7 ::1] [192.0.2.7]" {
			t.Errorf("%v: %s", down, got)
		}
		if warned := strings.Contains(strings.Join(cfg.Warnings, "\n"), `"office.example" cannot be resolved now`); warned != (down != nil) {
			t.Errorf("%v: warnings %q", down, cfg.Warnings)
		}
	}
	down = nil
	for flag, wants := range map[string]string{"-w": `flag -w (--no-password-from): auth.no_password_from: the name "x.example" cannot be resolved: no such host`, "-b": `the name "x.example"`} {
		l = with(flag, "x.example")
		l.names.lookUp = lookUp
		if _, err := load(l); err == nil || !strings.Contains(err.Error(), wants) {
			t.Errorf("%s: %v", flag, err)
		}
	}
	for _, wrong := range []string{"192.168.1.1.1", "999.1.1.1", "a b", "a/8", "-"} {
		l = with("-w", wrong)
		l.names.lookUp = lookUp
		if _, err := load(l); err == nil {
			t.Errorf("%q passes", wrong)
		}
	}
}
