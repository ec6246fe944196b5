package supervisor

import (
	"testing"

	"cleversocks/conn/relay"
)

// TestDescriptorBudget: the reserve was less than the relay's pipes alone, and
// associations were not counted, so that the daemon met its descriptor limit
// before its own.
func TestDescriptorBudget(t *testing.T) {
	for _, tt := range []struct {
		descriptors uint64
		least       int // connections that anybody would expect
	}{
		{64, 16},
		{256, 32},
		{1024, 256},
		{4096, 1024},
		{65_536, 20_000},
		{1 << 40, 1 << 20},
	} {
		b := divide(tt.descriptors)
		if b.connections < tt.least || b.pipes < 4 || b.pipes > relay.DefaultPipes {
			t.Errorf("%d: %+v", tt.descriptors, b)
		}
		worst := 2*b.connections + 2*b.udp + 2*b.pipes
		if spare := int(min(tt.descriptors, 1<<30)) - worst; spare < fixedDescriptors+min(b.connections/8, 1000) && tt.descriptors >= 256 {
			t.Errorf("%d: %+v leaves %d", tt.descriptors, b, spare)
		}
	}
}
