package config

import (
	"strings"
	"testing"
)

// A slip of the unit, "1ms" for "1m", wrote 20 MB of records in ten seconds for a single
// idle connection.
func TestInterimIsNoFlood(t *testing.T) {
	for value, accepted := range map[string]bool{"0s": true, "1s": true, "1h": true, "1ns": false, "1ms": false, "99ms": false, "100ms": true} {
		cfg, err := NewLoader(Sources{Environ: []string{"CLEVERSOCKS_LOG__INTERIM=" + value}}).Load(t.Context())
		if (err == nil) != accepted {
			t.Errorf("%s: %v", value, err)
		}
		if err == nil && cfg.Log.Interim.String() != value {
			t.Errorf("%s is %s", value, cfg.Log.Interim)
		}
		if err != nil && !strings.Contains(err.Error(), `log.interim: must be 0s (never), or 100ms or more, not "`+value) {
			t.Error(err)
		}
	}
}
