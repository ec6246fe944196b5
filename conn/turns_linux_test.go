package conn

import (
	"math"
	"testing"
)

// Lanes take turns however many connections there were: where an int has 32 bits, the
// count was taken for a negative one from the 2,147,483,648th on, and every second
// connection met a panic.
func TestLanesTakeTurnsForYears(t *testing.T) {
	g, lanes := new(Group), []*lane{{}, {}, {}}
	for _, count := range []uint32{0, math.MaxInt32 - 1, math.MaxInt32, math.MaxUint32 - 1} {
		g.nextLane.Store(count)
		for range 2 {
			if g.nextOf(lanes) == nil {
				t.Errorf("%d: nobody's turn", count)
			}
		}
	}
}
