package supervisor

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"cleversocks/authsvc"
	"cleversocks/conn"
	"cleversocks/metrics"
	"cleversocks/supervisor/config"
)

// A users file that an editor or a copy had just truncated was taken at a
// reload, and locked everybody out.
func TestEmptiedUsersFileIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	m := metrics.New()
	a := &accounts{
		log: slog.New(slog.DiscardHandler), metrics: m, queue: authsvc.NewQueue(authsvc.QueueOptions{}),
		guards: &guards{Guards: conn.Guards{Throttle: authsvc.NewThrottle(authsvc.ThrottleOptions{}, authsvc.StateOptions{Metrics: &m.Auth})}},
	}
	prepare := func(content string) (change, error) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := &config.Config{Auth: config.Auth{UsersFile: path, AllowPlain: true}}
		return a.Prepare(t.Context(), &draft{cfg: cfg, policy: &conn.Policy{}})
	}
	for _, step := range []struct {
		content string
		want    error
	}{
		{"", nil}, // at the start an empty file is fine: nobody logs in yet
		{"alice:one\n", nil},
		{"", errEmptied},
		{"# a comment\n", errEmptied},
		{"bob:two\n", nil},
	} {
		c, err := prepare(step.content)
		if !errors.Is(err, step.want) {
			t.Fatalf("%q: %v, want %v", step.content, err, step.want)
		}
		if err == nil {
			c.Commit(t.Context())
		}
	}
}
