package supervisor

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cleversocks/supervisor/config"
	"cleversocks/supervisor/sandbox"
)

// A reload is refused for what its settings name, and not for a directory of the
// system that was not there at the start: after "apt install ca-certificates" every
// reload wanted a restart.
func TestReloadAsksForWhatIsNamed(t *testing.T) {
	dir := t.TempDir()
	inside, outside := filepath.Join(dir, "in", "users"), filepath.Join(dir, "out", "users")
	for _, path := range []string{inside, outside} {
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("alice:plain:x\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := &confinement{log: slog.New(slog.DiscardHandler)}
	c.inForce.Store(&sandbox.State{Landlock: 3, Plan: sandbox.Plan{Write: []string{filepath.Dir(inside)}}}) // nothing of the system
	for path, want := range map[string]string{inside: "", outside: "restart needed: "} {
		cfg := new(config.Config)
		cfg.Auth.UsersFile = path
		cfg.Listeners = []config.Listener{{}}
		_, err := c.Prepare(t.Context(), &draft{cfg: cfg})
		if got := err != nil; got != (want != "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
