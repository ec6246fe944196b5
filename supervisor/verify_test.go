package supervisor

import (
	"testing"

	"cleversocks/supervisor/config"
)

// TestOnlyWhatChangesIsVerified: the interface of a VPN that is down for a
// moment, or a state directory whose disk has gone, must not keep a reload from
// anything else. At the start, and where they change, they are refused.
func TestOnlyWhatChangesIsVerified(t *testing.T) {
	bad := &config.Config{
		Egress: config.Egress{Interface: "nonsense0"},
		State:  config.State{Directory: "/nowhere/at/all"},
	}
	for name, tt := range map[string]struct {
		old  *config.Config
		want int
	}{
		"at the start":     {nil, 2},
		"on a reload":      {bad, 0},
		"where it changes": {&config.Config{}, 2},
	} {
		if got := unfit(t.Context(), bad, tt.old); len(got) != tt.want {
			t.Errorf("%s: %v, want %d faults", name, got, tt.want)
		}
	}
	// A rule's way out may be what the settings as a whole had before.
	rule := &config.Config{Forwards: []config.Forward{{Egress: config.Egress{Interface: "nonsense0"}}}}
	if got := unfit(t.Context(), rule, bad); len(got) != 0 {
		t.Errorf("a rule with an interface in use: %v", got)
	}
}
