package shared

import (
	"testing"

	"cleversocks/metrics"
)

// What a fleet adds to a connection that nobody has to be asked for is a few
// look-ups, and no memory.
func TestGuardEnter(t *testing.T) {
	s := New(Options{Metrics: metrics.New().Shared})
	s.fleet.floors, s.fleet.beaten, s.fleet.seen = 2, s.now(), [3]int{2, 2, 2}
	s.Enter(t.Context(), "alice", home, 100, 0, nil) // another of hers is there
	if n := testing.AllocsPerRun(1000, func() {
		s.Enter(t.Context(), "alice", home, 100, 0, nil)
		s.Leave("alice", home)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkEnter(b *testing.B) {
	s := New(Options{Metrics: metrics.New().Shared})
	s.fleet.floors, s.fleet.beaten, s.fleet.seen = 2, s.now(), [3]int{2, 2, 2}
	ctx := b.Context()
	s.Enter(ctx, "alice", home, 100, 0, nil)
	b.ReportAllocs()
	for b.Loop() {
		s.Enter(ctx, "alice", home, 100, 0, nil)
		s.Leave("alice", home)
	}
}
