package relay

import (
	"io"
	"testing"
	"time"
	"unsafe"
)

// The hot paths hold to these numbers of allocations: what moves bytes makes no
// garbage, whoever pays for them.
var guarded = []struct {
	name  string
	size  int
	meter Meter
	most  float64 // allocations of a message there and back
}{
	{name: "message", size: 64, most: 0},
	{name: "metered message", size: 64, meter: free{}, most: 0},
	{name: "bulk", size: 1 << 20, most: 2},
}

// free is a meter that limits nothing.
type free struct{}

func (free) Reserve(_ Direction, n int) (int, time.Duration, error) { return n, 0, nil }

func (free) Settle(Direction, int, int) {}

// TestGuardAllocations counts what a round trip allocates, in all of the
// process.
func TestGuardAllocations(t *testing.T) {
	if raceEnabled {
		t.Log("left out: the race detector allocates by itself")
		return
	}
	for _, g := range guarded {
		t.Run(g.name, func(t *testing.T) {
			tun := open(t, tcpPair, Options{Meter: g.meter, Pools: servedPools(PoolOptions{Reactors: 1})})
			b, got := make([]byte, g.size), make([]byte, g.size)
			go func() { // the far end echoes what it is sent
				echo := make([]byte, g.size)
				for {
					n, err := tun.server.Read(echo)
					if err != nil {
						return
					}
					if _, err := tun.server.Write(echo[:n]); err != nil {
						return
					}
				}
			}()
			trip := func() {
				if _, err := tun.client.Write(b); err != nil {
					t.Error(err)
				}
				if _, err := io.ReadFull(tun.client, got); err != nil {
					t.Error(err)
				}
			}
			if n := testing.AllocsPerRun(200, trip); n > g.most {
				t.Errorf("%.1f allocations a round trip, want at most %.0f", n, g.most)
			}
		})
	}
}

// TestGuardTunnelIsSmall: there is one for each open tunnel. The runtime rounds its
// size up to one of its classes, of which 416 bytes is one and 448 the next.
func TestGuardTunnelIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(Tunnel{}); n > 416 {
		t.Errorf("a tunnel takes %d bytes", n)
	}
}
