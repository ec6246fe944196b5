package supervisor

import (
	"strings"
	"testing"
	"time"

	"cleversocks/supervisor/config"
)

// A container that is stopped is killed after ten seconds, and its drain was cut
// off without a word.
func TestKilledSooner(t *testing.T) {
	cfg := new(config.Config)
	cfg.Drain.Timeout = config.Duration(25 * time.Second)
	if w := killedSooner(cfg, 1, ""); len(w) != 1 || !strings.Contains(w[0], "--stop-timeout 30") {
		t.Errorf("%q", w)
	}
	if w := append(killedSooner(cfg, 7, ""), killedSooner(cfg, 1, "10.0.0.1")...); len(w) > 0 {
		t.Errorf("no container of docker's: %q", w)
	}
	cfg.Drain.Timeout = config.Duration(8 * time.Second)
	if w := killedSooner(cfg, 1, ""); len(w) > 0 {
		t.Errorf("soon enough: %q", w)
	}
}
