package relay

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Whoever waits hears of it once and on time, whatever the others do; whoever has
// left, never.
func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex // for the race detector
		due := map[*Tunnel]time.Duration{}
		c := clock{}
		c.look = func(tunnel *Tunnel) {
			mu.Lock()
			defer mu.Unlock()
			at, waits := due[tunnel]
			if now := time.Since(start); !waits || now != at {
				t.Errorf("it waits: %t, was due at %v, and it is %v", waits, at, now)
			}
			delete(due, tunnel)
		}
		waits := []time.Duration{3 * time.Millisecond, 250 * time.Millisecond, time.Second, time.Minute}
		random := rand.New(rand.NewPCG(1, 2))
		for range 200 {
			tunnel, wait := new(Tunnel), waits[random.IntN(len(waits))]
			c.meet(tunnel, wait)
			leaves := random.IntN(3) == 0
			if leaves && (!c.miss(tunnel, wait) || c.miss(tunnel, wait)) {
				t.Fatal("it did not leave once")
			}
			mu.Lock()
			if !leaves {
				due[tunnel] = time.Since(start) + wait
			}
			mu.Unlock()
			<-time.After(time.Duration(random.IntN(5)) * time.Millisecond)
			synctest.Wait()
		}
		<-time.After(time.Hour)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if len(due) != 0 || len(c.rows) != 0 || c.rings != 0 {
			t.Errorf("%d still wait in %d rows, and it rings at %v", len(due), len(c.rows), c.rings)
		}
	})
}
