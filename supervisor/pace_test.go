package supervisor

import (
	"testing"
	"testing/synctest"
	"time"
)

// Looks become rare while nothing is found, and frequent again with the first
// find; what wakes has the next look come at once, but for the least time.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wake := make(chan struct{}, 1)
		p := pace{least: 20 * time.Millisecond, most: 100 * time.Millisecond, wake: wake}
		waits := func(found bool, took time.Duration) time.Duration {
			begun := time.Now()
			if err := p.wait(t.Context(), found, took); err != nil {
				t.Fatal(err)
			}
			return time.Since(begun)
		}
		for i, want := range []time.Duration{20, 40, 80, 100, 100} {
			if got := waits(false, 0); got != want*time.Millisecond {
				t.Errorf("wait %d: %s", i+1, got)
			}
		}
		wake <- struct{}{}
		if got := waits(false, 0); got != p.least {
			t.Errorf("woken after %s", got)
		}
		if got := waits(true, 0); got != p.least {
			t.Errorf("after a find: %s", got)
		}
		if got := waits(true, 10*time.Millisecond); got != 200*time.Millisecond {
			t.Errorf("after a long look: %s", got)
		}
	})
}
