package resolver

import (
	"math"
	"testing"
)

// Servers that rotate go on doing so however many questions there were: where an int has
// 32 bits, the count was taken for a negative one from the 2,147,483,648th on, which
// is no place in a list, and no name was found any more.
func TestRotateForYears(t *testing.T) {
	servers := []*server{{id: "a"}, {id: "b"}, {id: "c"}}
	for _, offset := range []uint32{0, math.MaxInt32, math.MaxInt32 + 1, math.MaxInt32 + 2, math.MaxUint32} {
		order := plan(servers, 2, offset)
		if len(order) != 6 || order[0] != servers[offset%3] || order[3] != order[0] || order[1] == order[0] {
			t.Errorf("%d: %v", offset, order)
		}
	}
}
