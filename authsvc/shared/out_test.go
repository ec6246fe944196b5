package shared

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"cleversocks/metrics"
)

// Replicas have the same settings, and each wrote all disabled users, and read those of
// all others, with every beat: the store needed 8 ms for 5,000 of one replica.
func TestOutListIsStoredOnce(t *testing.T) {
	server, url := fake(t)
	all := joinAll(t, url, 3)
	var users []string
	for i := range 2000 {
		users = append(users, fmt.Sprint("user|\xff", i))
	}
	for _, r := range all {
		r.PutOut(users)
	}
	known := func(r *replica) bool { return r.Out(users[0]) && r.Out(users[1999]) }
	lists := func() (n int) {
		for _, key := range server.Keys() {
			if strings.HasPrefix(key, "cs:{replicas}:out:") {
				n++
			}
		}
		return n
	}
	named := func() int { names, _ := server.ZMembers("cs:{replicas}:lists"); return len(names) }
	for _, r := range all {
		eventually(t, "all know of all", func() bool { return known(r) })
	}
	eventually(t, "one list is named by three", func() bool { return lists() == 1 && named() == 3 })
	late := join(t, url, "late")
	eventually(t, "so does one that is new", func() bool { return known(late) })
	server.FlushAll()
	eventually(t, "a store that has lost it gets it back", func() bool { return lists() == 1 && named() == 3 })
	other := slices.Clone(users[1:])
	all[0].PutOut(other)
	eventually(t, "it is another list", func() bool { return lists() == 2 && named() == 3 })
	for _, r := range all[1:] {
		r.PutOut(other)
	}
	for _, r := range append(all, late) {
		eventually(t, "who is disabled by nobody is in", func() bool { return !r.Out(users[0]) && r.Out(users[1]) })
		if n := r.metrics.Shared.Dropped.Get() + r.metrics.Shared.Events.Of("sent", "in").Get(); n > 3 {
			t.Errorf("%d events", n)
		}
	}
}

// Each beat built the table of all disabled users anew, a map for each of them, and
// whoever logged in waited for that.
func TestKnownListsCostNothing(t *testing.T) {
	s := New(Options{Metrics: metrics.New().Shared})
	list := make(map[string]struct{})
	for i := range 5000 {
		list[fmt.Sprint("user", i)] = struct{}{}
	}
	s.out.lists = map[string]map[string]struct{}{"a": list, "b": list}
	names := []string{"a", "b"}
	if n := testing.AllocsPerRun(10, func() { s.takeOut(t.Context(), names) }); n > 10 {
		t.Errorf("%.0f allocations a beat", n)
	}
	if !s.Out("user7") || s.Out("other") {
		t.Error("others are out than before")
	}
}
