package authsvc

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

func source(n byte) netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, n}) }

// bench runs work in a queue in a bubble: start enters a waiter and returns
// once it waits or runs.
type bench struct {
	q    *Queue
	wg   sync.WaitGroup
	gate chan struct{} // one receive lets one running check end

	mu    sync.Mutex
	order []byte
	errs  []error
}

func (b *bench) start(ctx context.Context, n byte, memory int64) {
	b.wg.Go(func() {
		err := b.q.Do(ctx, source(n), nil, memory, func() {
			b.mu.Lock()
			b.order = append(b.order, n)
			b.mu.Unlock()
			<-b.gate
		})
		if err != nil {
			b.mu.Lock()
			b.errs = append(b.errs, err)
			b.mu.Unlock()
		}
	})
	synctest.Wait()
}

func (b *bench) finish() {
	close(b.gate)
	b.wg.Wait()
}

func newBench(o QueueOptions) *bench { return &bench{q: NewQueue(o), gate: make(chan struct{})} }

// One source's flood delays another's check by one, not by the flood.
func TestQueueIsFairBySource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(QueueOptions{Concurrency: 1})
		for range 6 {
			b.start(t.Context(), 1, 0)
		}
		b.start(t.Context(), 2, 0)
		b.start(t.Context(), 3, 0)
		b.start(t.Context(), 2, 0)
		b.finish()
		if diff := cmp.Diff([]byte{1, 1, 2, 3, 1, 2, 1, 1, 1}, b.order); diff != "" {
			t.Error(diff)
		}
		if b.q.running != 0 || b.q.waiting != 0 || b.q.used != 0 || len(b.q.sources) != 0 || len(b.q.turns) != 0 {
			t.Errorf("left behind: %+v", b.q)
		}
	})
}

func TestQueueBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(QueueOptions{Concurrency: 1, PerSource: 2, Waiting: 3})
		for range 4 {
			b.start(t.Context(), 1, 0) // one runs, two wait, one is refused
		}
		if len(b.errs) != 1 || !errors.Is(b.errs[0], ErrBusy) {
			t.Fatalf("past the source's bound: %v", b.errs)
		}
		b.start(t.Context(), 2, 0)
		b.start(t.Context(), 3, 0) // pushes out one of the first source's two
		if len(b.errs) != 2 || !slices.ContainsFunc(b.q.turns, func(s *sourceQueue) bool { return s.source == source(3) }) {
			t.Fatalf("a full queue locks a new source out: %v", b.errs)
		}
		b.start(t.Context(), 4, 0) // nobody has two: refused itself
		b.finish()
		if diff := cmp.Diff([]byte{1, 1, 2, 3}, b.order); diff != "" || len(b.errs) != 3 {
			t.Error(diff, b.errs)
		}
	})
}

func TestQueueMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(QueueOptions{Concurrency: 4, Memory: 100})
		b.start(t.Context(), 1, 60)
		b.start(t.Context(), 2, 60) // does not fit, and those behind wait with it
		b.start(t.Context(), 3, 10)
		if diff := cmp.Diff([]byte{1}, b.order); diff != "" {
			t.Error(diff)
		}
		b.gate <- struct{}{}
		synctest.Wait()
		if diff := cmp.Diff([]byte{1, 2, 3}, slices.Sorted(slices.Values(b.order))); diff != "" { // 2 and 3 start together
			t.Error(diff)
		}
		b.finish()
		b2 := newBench(QueueOptions{Concurrency: 4, Memory: 100})
		b2.start(t.Context(), 1, 500) // larger than all: alone, yet not never
		b2.start(t.Context(), 2, 1)
		if diff := cmp.Diff([]byte{1}, b2.order); diff != "" {
			t.Error(diff)
		}
		b2.finish()
	})
}

// A client that goes away leaves its place, and what waited for room behind
// it runs.
func TestQueueCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(QueueOptions{Concurrency: 2, Memory: 100})
		gone, cancel := context.WithCancel(t.Context())
		b.start(t.Context(), 1, 60)
		b.start(gone, 2, 60)
		b.start(t.Context(), 3, 30)
		cancel()
		synctest.Wait()
		if diff := cmp.Diff([]byte{1, 3}, b.order); diff != "" {
			t.Error(diff)
		}
		if len(b.errs) != 1 || !errors.Is(b.errs[0], context.Canceled) {
			t.Errorf("%v", b.errs)
		}
		b.finish()
		if b.q.running != 0 || b.q.waiting != 0 || b.q.used != 0 {
			t.Errorf("left behind: %+v", b.q)
		}
	})
}

func TestQueueSurvivesPanic(t *testing.T) {
	q := NewQueue(QueueOptions{Concurrency: 1})
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic is lost")
			}
		}()
		q.Do(t.Context(), source(1), nil, 0, func() { panic("x") })
	}()
	ran := false
	if err := q.Do(t.Context(), source(1), nil, 0, func() { ran = true }); err != nil || !ran {
		t.Error(err)
	}
}
