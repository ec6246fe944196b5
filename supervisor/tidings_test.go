package supervisor

import (
	"testing"

	"cleversocks/metrics/admin"
)

// Events wait for a successor that does not read, up to a bound, beyond which they
// are counted; and nothing is kept for nobody.
func TestTidings(t *testing.T) {
	var some tidings
	some.add("closed", admin.Event{})
	if some.wanted() || len(some.waiting) != 0 {
		t.Errorf("%d wait without a successor", len(some.waiting))
	}
	some.begin()
	for range mostTidings + 3 {
		some.add("closed", admin.Event{Cause: "drained"})
	}
	if all, lost := some.take(); len(all) != mostTidings || lost != 3 || !some.wanted() {
		t.Errorf("%d, and %d lost", len(all), lost)
	}
	some.add("denied", admin.Event{})
	if all, lost := some.take(); len(all) != 1 || all[0].Name != "denied" || lost != 0 {
		t.Errorf("%v, and %d lost", all, lost)
	}
	some.add("closed", admin.Event{})
	some.end()
	if all, lost := some.take(); len(all) != 0 || lost != 0 || some.wanted() {
		t.Errorf("%d after the successor's end, and %d lost", len(all), lost)
	}
}
