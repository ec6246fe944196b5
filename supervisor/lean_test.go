package supervisor

import "testing"

// Thousands of connections were opened, and their handshakes' garbage stayed for two
// minutes, twice as much as the connections need.
func TestMemoryIsGivenBackAfterABusyTime(t *testing.T) {
	const mb = 1 << 20
	w := heapWatch{last: 10 * mb, given: 10 * mb}
	for i, look := range []struct {
		allocated, live uint64
		give            bool
	}{
		{10 * mb, 5 * mb, false},        // at rest from the begin
		{40 * mb, 5 * mb, false},        // busy
		{70 * mb, 9 * mb, false},        // still
		{70*mb + 5000, 9 * mb, true},    // over
		{70*mb + 9000, 9 * mb, false},   // at rest, and given back already
		{70*mb + 600000, 9 * mb, false}, // a little
		{70*mb + 600000, 9 * mb, false}, // too little
		{72 * mb, 9 * mb, false},        // more
		{72*mb + 1, 9 * mb, true},       // enough
		{75 * mb, 80 * mb, false},       // a large heap
		{75*mb + 1, 80 * mb, false},     // whose collection would cost more than it brings
		{83 * mb, 80 * mb, false},
		{83*mb + quietBytes, 80 * mb, true},
	} {
		if give := w.isQuietAgain(look.allocated, look.live); give != look.give {
			t.Errorf("look %d: %t", i, give)
		}
	}
	real := *newHeapWatch()
	if allocated, live := real.read(); allocated == 0 || live > allocated {
		t.Errorf("the runtime says %d, %d", allocated, live)
	}
}
