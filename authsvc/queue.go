package authsvc

import (
	"context"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"cleversocks/conn/netaddr"
)

// Queue runs the expensive checks, a few at a time, and takes the sources in
// turn: a thousand wrong passwords from one source delay another source by
// one check. Of the sources that wait, those with the fewest failures go
// first, three times of four: however many sources guess, one that has not
// failed waits for those alone that have not failed either, and the others
// are still checked. The work runs in the caller's goroutine.
type Queue struct {
	concurrency int
	memory      int64
	perSource   int
	most        int
	waitingNow  *atomic.Int64

	mu      sync.Mutex
	running int
	used    int64 // bytes that the running checks take
	waiting int
	turns   []*sourceQueue // sources with waiters, the one that waits longest first
	granted int
	sources map[netip.Addr]*sourceQueue
}

// QueueOptions bounds a Queue. Zero values are replaced by the defaults.
type QueueOptions struct {
	Concurrency int           // checks at a time; default: half of the processors, so that relays keep the rest
	Memory      int64         // bytes that checks take together; default 256 MiB. A larger check runs alone
	PerSource   int           // waiters of one source; default 64
	Waiting     int           // waiters in all; default 16,384: each is a connection, and costs less than that
	Gauge       *atomic.Int64 // shows the number of waiters; may be nil
}

// NewQueue makes a queue.
func NewQueue(o QueueOptions) *Queue {
	q := &Queue{
		concurrency: o.Concurrency, memory: o.Memory, perSource: o.PerSource, most: o.Waiting, waitingNow: o.Gauge,
		sources: map[netip.Addr]*sourceQueue{},
	}
	if q.concurrency <= 0 {
		q.concurrency = max(1, runtime.GOMAXPROCS(0)/2)
	}
	if q.memory <= 0 {
		q.memory = 256 << 20
	}
	if q.perSource <= 0 {
		q.perSource = 64
	}
	if q.most <= 0 {
		q.most = 16 << 10
	}
	if q.waitingNow == nil {
		q.waitingNow = new(atomic.Int64)
	}
	return q
}

// sourceQueue is the waiters of one source, in order of arrival.
type sourceQueue struct {
	source    netip.Addr
	suspicion func() int // failures lately; nil: none
	waiters   []*waiter
}

func (s *sourceQueue) failures() int {
	if s.suspicion == nil {
		return 0
	}
	return s.suspicion()
}

// weight is what the source asks of others: the one with the most gives way
// when the queue is full.
func (s *sourceQueue) weight() int { return len(s.waiters) + s.failures() }

type waiter struct {
	memory int64
	turn   chan struct{} // closed when it may run, or when refused is set
	// refused: pushed out by a source with fewer waiters. Written before turn
	// is closed, read after.
	refused bool
}

// Do waits for the turn of source, whose failures suspicion counts (nil: it
// has none), and runs work, which takes that many bytes of memory. It returns ErrBusy or
// ctx's error without having run it.
func (q *Queue) Do(ctx context.Context, source netip.Addr, suspicion func() int, memory int64, work func()) error {
	if err := q.enter(ctx, source, suspicion, memory); err != nil {
		return err
	}
	defer q.done(memory)
	work()
	return nil
}

// Enter is Do for work that is no function: it is done until Leave, which the
// caller must call if there is no error.
func (q *Queue) Enter(ctx context.Context, source netip.Addr) error {
	return q.enter(ctx, source, nil, 0)
}

// Leave ends what an Enter began.
func (q *Queue) Leave() { q.done(0) }

func (q *Queue) enter(ctx context.Context, source netip.Addr, suspicion func() int, memory int64) error {
	source = netaddr.SourceKey(source)
	w, err := q.enqueue(source, suspicion, memory)
	if err != nil {
		return err
	}
	select {
	case <-w.turn:
	case <-ctx.Done():
		if q.leave(source, w) {
			return ctx.Err()
		}
		<-w.turn // granted or refused in the meantime
		if !w.refused {
			q.done(memory)
		}
		return ctx.Err()
	}
	if w.refused {
		return ErrBusy
	}
	return nil
}

func (q *Queue) enqueue(source netip.Addr, suspicion func() int, memory int64) (*waiter, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.sources[source]
	newcomer, own := sourceQueue{suspicion: suspicion}, 0
	if s != nil {
		own = len(s.waiters)
	}
	if own >= q.perSource || q.waiting >= q.most && !q.pushOut(newcomer.weight()+own) {
		return nil, ErrBusy
	}
	if s == nil {
		s = &sourceQueue{source: source}
		q.sources[source] = s
		q.turns = append(q.turns, s)
	}
	s.suspicion = suspicion
	w := &waiter{memory: memory, turn: make(chan struct{})}
	s.waiters = append(s.waiters, w)
	q.count(1)
	q.dispatch()
	return w, nil
}

// pushOut makes room at the cost of the source with the most waiters and
// failures, if that has more of them than the one that arrives will have.
func (q *Queue) pushOut(weight int) bool {
	var heaviest *sourceQueue
	most := weight + 1
	for _, s := range q.turns {
		if w := s.weight(); w > most {
			heaviest, most = s, w
		}
	}
	if heaviest == nil {
		return false
	}
	last := len(heaviest.waiters) - 1
	w := heaviest.waiters[last]
	heaviest.waiters = heaviest.waiters[:last]
	if last == 0 {
		q.forget(heaviest)
	}
	q.count(-1)
	w.refused = true
	close(w.turn)
	return true
}

// forget drops a source without waiters.
func (q *Queue) forget(s *sourceQueue) {
	delete(q.sources, s.source)
	q.turns = slices.DeleteFunc(q.turns, func(t *sourceQueue) bool { return t == s })
}

// next is the place in turns of the source that is to be served.
func (q *Queue) next() int {
	if q.granted%4 == 3 {
		return 0
	}
	best, least := 0, q.turns[0].failures()
	for i := 1; i < len(q.turns) && least > 0; i++ {
		if n := q.turns[i].failures(); n < least {
			best, least = i, n
		}
	}
	return best
}

// dispatch starts what may run. If the next check does not fit into memory
// it waits for room, and everybody behind it does, or it would starve.
func (q *Queue) dispatch() {
	for q.running < q.concurrency && len(q.turns) > 0 {
		i := q.next()
		s := q.turns[i]
		w := s.waiters[0]
		if q.running > 0 && q.used+w.memory > q.memory {
			return
		}
		q.turns = slices.Delete(q.turns, i, i+1)
		s.waiters = s.waiters[1:]
		if len(s.waiters) > 0 {
			q.turns = append(q.turns, s)
		} else {
			delete(q.sources, s.source)
		}
		q.count(-1)
		q.granted++
		q.running++
		q.used += w.memory
		close(w.turn)
	}
}

// leave takes a waiter out and reports whether it was still waiting.
func (q *Queue) leave(source netip.Addr, w *waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.sources[source]
	if s == nil {
		return false
	}
	i := slices.Index(s.waiters, w)
	if i < 0 {
		return false
	}
	s.waiters = slices.Delete(s.waiters, i, i+1)
	if len(s.waiters) == 0 {
		q.forget(s)
	}
	q.count(-1)
	q.dispatch() // it may have been what did not fit
	return true
}

func (q *Queue) done(memory int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running--
	q.used -= memory
	q.dispatch()
}

func (q *Queue) count(n int) {
	q.waiting += n
	q.waitingNow.Store(int64(q.waiting))
}
