package udprelay

import (
	"testing"
	"testing/synctest"
	"time"
)

// Batches stay as long as somebody needs them now and then, and no longer: all that a
// burst had taken stayed for as long as the process lasted, 2 MiB each.
func TestBatchesThatNobodyNeedsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(4)
		free := func() int {
			p.mu.Lock()
			defer p.mu.Unlock()
			return len(p.free)
		}
		var burst []*batch
		for range 4 {
			burst = append(burst, p.get(t.Context()))
		}
		for _, b := range burst {
			p.put(b)
		}
		last := burst[3]
		for range 3 * int(trimEvery/time.Second) {
			time.Sleep(time.Second) //nolint:forbidigo // of the bubble's time
			b := p.get(t.Context())
			if b != last {
				t.Fatal("not the one that was used last")
			}
			p.put(b)
		}
		if n := free(); n != 1 {
			t.Errorf("%d free ones while one is needed", n)
		}
		time.Sleep(2*trimEvery + time.Second) //nolint:forbidigo // likewise
		if n := free(); n != 0 {
			t.Errorf("%d free ones long after", n)
		}
	})
}
