package supervisor

import (
	"testing"

	"cleversocks/conn"
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

// A datagram that the rules refuse to an association which goes on in an old process was
// told there, where nobody listens any more, and not to the successor.
func TestDroppedDatagramsAreToldToTheSuccessor(t *testing.T) {
	o := &operator{events: admin.NewEvents(func() {}, func() {})}
	o.tidings.begin()
	o.seen(&conn.Record{Dropped: new(conn.Denial)})
	if all, _ := o.tidings.take(); len(all) != 1 || all[0].Name != "denied" || all[0].Event.Denial == nil {
		t.Errorf("told %+v", all)
	}
}
