package supervisor

import (
	"context"
	"log/slog"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	leanEvery = time.Second // a look reads two counters
	// quietBytes is what a process at rest allocates at most from one look to the
	// next: some connections are opened and closed in any minute.
	quietBytes = 64 << 10
	// worthwhile is how much garbage is worth a collection.
	worthwhile = 1 << 20
)

// lean is a service that gives memory back, of the start and of each busy time
// that is over. Reading the settings leaves several times as much garbage as the
// daemon keeps, and so does opening thousands of connections that then rest; no
// collection would come for it before there is traffic, or within two minutes. And
// most of the program's pages that the start went through are not needed again.
type lean struct {
	log *slog.Logger
	// unmap lets go of the program's pages; see unmapProgram.
	unmap func() (bytes int64, err error)
}

// String names the service.
func (lean) String() string { return "memory" }

// Serve gives memory back until ctx ends.
func (l lean) Serve(ctx context.Context) error {
	debug.FreeOSMemory()
	bytes, err := l.unmap()
	if err != nil { // a kernel or a confinement that does not have it costs memory, and nothing else
		l.log.LogAttrs(ctx, slog.LevelDebug, "pages of the start stay mapped", slog.Any("err", err))
	}
	l.log.LogAttrs(ctx, slog.LevelDebug, "memory of the start given back", slog.Int64("unmapped", bytes))
	tick := time.NewTicker(leanEvery)
	defer tick.Stop()
	heap := newHeapWatch()
	for {
		select {
		case <-tick.C:
			if heap.isQuietAgain(heap.read()) {
				debug.FreeOSMemory()
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// heapWatch tells when a busy time is over that has left garbage.
type heapWatch struct {
	samples [2]metrics.Sample
	last    uint64 // allocated, by the last look
	given   uint64 // allocated, when memory was given back
}

func newHeapWatch() *heapWatch {
	w := &heapWatch{samples: [2]metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}}
	w.last, _ = w.read()
	w.given = w.last
	return w
}

// read is how much has been allocated since the start of the process, and how much
// of it the last collection has found in use.
func (w *heapWatch) read() (allocated, live uint64) {
	metrics.Read(w.samples[:])
	return w.samples[0].Value.Uint64(), w.samples[1].Value.Uint64()
}

// isQuietAgain reports whether hardly anything was allocated since the last look,
// and enough since memory was given back to do so again: a collection costs by what
// is in use.
func (w *heapWatch) isQuietAgain(allocated, live uint64) bool {
	quiet := allocated-w.last <= quietBytes
	w.last = allocated
	if !quiet || allocated-w.given < max(worthwhile, live/8) {
		return false
	}
	w.given = allocated
	return true
}
