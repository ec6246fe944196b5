package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"cleversocks/supervisor/config"
)

// noLog is a log that has nothing to open.
type noLog struct{}

func (noLog) Commit()   {}
func (noLog) Rollback() {}

// quietly starts a daemon whose settings are a file of the test's, without a sandbox for
// the test and without a log.
func quietly(t *testing.T, path string) *daemon {
	t.Helper()
	loader := config.NewLoader(config.Sources{File: path})
	load := func() (*config.Config, error) { return loader.Load(context.WithoutCancel(t.Context())) }
	loadText := func(text []byte) (*config.Config, error) {
		return loader.LoadText(context.WithoutCancel(t.Context()), text)
	}
	cfg, err := load()
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	d, err := start(t.Context(), Options{
		Load: load, LoadText: loadText, Logger: quiet, Access: quiet, PrepareLog: func(config.Log) (LogChange, error) { return noLog{}, nil },
		LostLog: func() uint64 { return 0 }, Level: func() string { return "info" }, SetLevel: func(string) bool { return true },
	}, cfg, new(atomic.Bool))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.shutdown(context.WithoutCancel(t.Context())) })
	return d
}

// unconfined are the settings of a daemon that shares its process with a test.
const unconfined = `
[sandbox]
landlock = "off"
seccomp = "off"
core_dumps = true
[admin]
address = ""
[resolver]
servers = ["udp://127.0.0.1:9"]
`

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (d *daemon) reload(t *testing.T) {
	t.Helper()
	if err := d.reloader.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Nothing of a generation is left once two more are in force: neither its settings,
// nor its users, nor the snapshot of the connections. Users kept those of the generation
// before, and with them its settings: a year of a reload a minute was half a million.
func TestGenerationsEnd(t *testing.T) {
	path, users := filepath.Join(t.TempDir(), "c.toml"), filepath.Join(t.TempDir(), "users")
	write(t, users, "bob:plain\n")
	write(t, path, unconfined+`
[[listener]]
address = "127.0.0.1:0"
[auth]
users_file = "`+users+`"
allow_plain_passwords = true
[[user]]
name = "alice"
password = "x"
quota = { bytes = "1MiB" }
[[acl.rule]]
action = "deny"
to = ["192.0.2.0/24"]
[[upstream]]
name = "farm"
members = ["socks5://127.0.0.1:9"]
[[forward]]
to = ["*.example"]
upstream = "farm"
`)
	d := quietly(t, path)
	d.reload(t) // the first one is what later ones are compared with
	policy := d.reloader.people.group.Policy()
	what := map[string]func() bool{
		"the settings":  leaves(d.config.Load()),
		"the snapshot":  leaves(policy),
		"the users":     leaves(d.reloader.people.accounts.users),
		"the admission": leaves(policy.Auth),
		"the rules":     leaves(policy.ACL),
		"the routes":    leaves(policy.Routes),
		"the dialer":    leaves(policy.Dialer),
	}
	policy = nil
	edit := func() {
		t.Helper()
		if err := d.reloader.editUsers(t.Context(), &userEdit{change: func(content []byte) ([]byte, error) { return append(content, '\n'), nil }}); err != nil {
			t.Fatal(err)
		}
	}
	edit()
	d.reload(t)
	d.reload(t)
	edit()
	for name, left := range what {
		for end := time.Now().Add(20 * time.Second); left(); runtime.GC() {
			if time.Now().After(end) {
				t.Errorf("%s of a generation of before: still there", name)
				break
			}
		}
	}
}

// A listener or an upstream that a reload takes away takes all of its series along. The
// counter of its service's restarts stayed: settings whose names change with each
// reload, as generators make them, made a series for each.
func TestWhatIsGoneHasNoSeries(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.toml")
	stays := unconfined + `
[[listener]]
name = "stays"
address = "127.0.0.1:0"
[[upstream]]
name = "stays"
members = ["socks5://127.0.0.1:9"]
strategy = "%s"
`
	write(t, path, fmt.Sprintf(stays, "random")+`
[[listener]]
name = "passing"
address = "127.0.0.1:0"
[[upstream]]
name = "passing"
members = ["socks5://127.0.0.2:9"]
`)
	d := quietly(t, path)
	series := func(name string) (n int) {
		var text strings.Builder
		d.reloader.metrics.WritePrometheus(&text)
		return strings.Count(text.String(), name+`"`)
	}
	if series("listener passing") != 1 || series("upstream passing") != 1 {
		t.Error("they have no series at first")
	}
	write(t, path, fmt.Sprintf(stays, "fastest"))
	d.reload(t)
	if n := series("passing"); n != 0 {
		t.Errorf("%d series of what is gone", n)
	}
	if series("listener stays") != 1 || series("upstream stays") != 1 {
		t.Error("what stays has lost its series")
	}
}

// leaves tells whether what p points to is still there.
func leaves[T any](p *T) (left func() bool) {
	w := weak.Make(p)
	return func() bool { return w.Value() != nil }
}
