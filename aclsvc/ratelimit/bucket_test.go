package ratelimit

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// wait books n bytes and says how long they have to wait.
func wait(b *Bucket, n int) time.Duration {
	_, wait := b.Reserve(n)
	return wait
}

// download moves as much as it may for some time, in chunks of the relay's
// size. It returns the bytes, and the longest time in which none came.
func download(b *Bucket, lasts time.Duration) (moved int, silence time.Duration) {
	begin := time.Now()
	last := begin
	for time.Since(begin) < lasts {
		n, wait := b.Reserve(256 << 10)
		pass(wait)
		if wait == 0 {
			pass(10 * time.Microsecond) // so that the fake clock moves
		}
		b.Settle(n, n)
		silence = max(silence, time.Since(last))
		last = time.Now()
		moved += n
	}
	return moved, silence
}

// A cap of 32 KiB/s used to let 256 KiB through at once and then nothing for 8
// seconds: dashboards and shells behind it looked dead.
func TestCapsFlow(t *testing.T) {
	for _, rate := range []int64{8 << 10, 32 << 10, 1 << 20, 100 << 20, 1 << 30} {
		synctest.Test(t, func(t *testing.T) {
			var b Bucket
			b.Set(rate)
			const lasts = 10 * time.Second
			for _, phase := range []string{"from rest", "in flow"} {
				moved, silence := download(&b, lasts)
				share := float64(moved) / (float64(rate) * lasts.Seconds())
				if share < 0.97 || share > 1.03 {
					t.Errorf("%d B/s, %s: %.3f of the rate over %s", rate, phase, share, lasts)
				}
				if silence > 500*time.Millisecond {
					t.Errorf("%d B/s, %s: nothing for %s", rate, phase, silence)
				}
			}
		})
	}
}

// A shell beside a download of the same user waited as long as the download's
// last chunk took: with a cap of 32 KiB/s, 8 seconds a keystroke.
func TestKeystrokeBesideDownloads(t *testing.T) {
	for _, rate := range []int64{8 << 10, 1 << 20} {
		for _, downloads := range []int{1, 20} {
			synctest.Test(t, func(t *testing.T) {
				var b Bucket
				b.Set(rate)
				var wg sync.WaitGroup
				for range downloads {
					wg.Go(func() { download(&b, 10*time.Second) })
				}
				for range 30 {
					pass(300 * time.Millisecond)
					n, wait := b.Reserve(16 << 10)
					if wait > 300*time.Millisecond {
						t.Errorf("%d B/s beside %d downloads: a key waits %s", rate, downloads, wait)
					}
					pass(wait)
					b.Settle(n, 1)
				}
				wg.Wait()
			})
		}
	}
}

// Downloads of one user share the rate; none gets all of it, and what they get
// together is the rate.
func TestDownloadsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Bucket
		b.Set(100_000)
		moved := make([]int, 4)
		var wg sync.WaitGroup
		for i := range moved {
			wg.Go(func() { moved[i], _ = download(&b, 20*time.Second) })
		}
		wg.Wait()
		all := 0
		for _, n := range moved {
			all += n
			if n < 250_000 {
				t.Errorf("one of four got %d of 2,000,000 bytes", n)
			}
		}
		if all < 1_900_000 || all > 2_100_000 {
			t.Errorf("%d bytes in 20 s at 100,000 a second", all)
		}
	})
}

// Short connections used to get what they asked for, since each was charged
// only after its first chunk: 500 times the cap. Nor is their debt forgotten.
func TestShortConnectionsPay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Bucket
		b.Set(10_000)
		moved := 0
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 500 { // each asks once, waits as told, and goes
			wg.Go(func() {
				n, wait := b.Reserve(16 << 10)
				pass(wait)
				b.Settle(n, n)
				mu.Lock()
				moved += n
				mu.Unlock()
			})
		}
		begin := time.Now()
		wg.Wait()
		took := time.Since(begin)
		if most := 10_000 * (took + time.Second).Seconds(); float64(moved) > most {
			t.Errorf("%d bytes in %s at 10,000 a second", moved, took)
		}
		if _, wait := b.Reserve(1); wait <= 0 && moved > 10_000 {
			t.Errorf("nothing is owed after %d bytes in %s", moved, took)
		}
	})
}

// What a booking did not use is there for others, and the burst is a setting.
func TestSettleAndBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Bucket
		b.Set(1000)
		b.SetBurst(2 * time.Second)
		n, wait := b.Reserve(1 << 20)
		if wait != 0 || n < 1900 || n > 2200 {
			t.Fatalf("%d bytes at once after %s, with a burst of 2 s at 1000 a second", n, wait)
		}
		b.Settle(n, 0)
		if again, wait := b.Reserve(1 << 20); wait != 0 || again != n {
			t.Errorf("%d bytes after %s, want the %d that were given back", again, wait, n)
		}
		b.Set(0) // a reload lifts the cap while bytes are booked
		b.Settle(n, 0)
		if all, wait := b.Reserve(1 << 20); all != 1<<20 || wait != 0 {
			t.Errorf("%d bytes after %s without a cap", all, wait)
		}
	})
}

func BenchmarkReserveWithoutCap(b *testing.B) {
	var bucket Bucket
	b.ReportAllocs()
	for b.Loop() {
		bucket.Reserve(1 << 14)
		bucket.Settle(1<<14, 64)
	}
}

// TestGuardAllocations: what is asked for each chunk makes no garbage.
func TestGuardAllocations(t *testing.T) {
	var free, capped Bucket
	capped.Set(1 << 20)
	for _, b := range []*Bucket{&free, &capped} {
		if n := testing.AllocsPerRun(100, func() { granted, _ := b.Reserve(64); b.Settle(granted, 64) }); n > 0 {
			t.Errorf("%.0f allocations a booking", n)
		}
	}
}
