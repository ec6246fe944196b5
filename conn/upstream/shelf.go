package upstream

import (
	"sync"
	"sync/atomic"
	"time"
)

// shelf holds a member's warm connections.
type shelf struct {
	size    int
	maxIdle time.Duration
	count   *atomic.Int64 // the gauge of what is held
	want    chan struct{} // says that one was taken

	mu    sync.Mutex
	open  bool
	items []shelved // oldest first
}

type shelved struct {
	p     *prepared
	since time.Time
}

func newShelf(w Warm, count *atomic.Int64) *shelf {
	return &shelf{size: w.Size, maxIdle: w.MaxIdle, count: count, want: make(chan struct{}, 1)}
}

func (s *shelf) openUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = true
}

// shutDown closes what is held and takes no more.
func (s *shelf) shutDown() {
	s.mu.Lock()
	items := s.items
	s.items, s.open = nil, false
	s.count.Add(-int64(len(items)))
	s.mu.Unlock()
	for _, it := range items {
		it.p.close()
	}
}

// put takes p over, or closes it when there is no room.
func (s *shelf) put(p *prepared) {
	s.mu.Lock()
	keep := s.open && len(s.items) < s.size
	if keep {
		s.items = append(s.items, shelved{p, time.Now()})
		s.count.Add(1)
	}
	s.mu.Unlock()
	if !keep {
		p.close()
	}
}

func (s *shelf) lacks() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open && len(s.items) < s.size
}

// take is the youngest connection that is still good, or nil. Stale ones on
// the way are closed.
func (s *shelf) take() *prepared {
	if s.size == 0 {
		return nil
	}
	defer s.ask()
	for {
		it, ok := s.pop()
		if !ok {
			return nil
		}
		if s.good(it) {
			return it.p
		}
		it.p.close()
	}
}

func (s *shelf) ask() {
	select {
	case s.want <- struct{}{}:
	default:
	}
}

func (s *shelf) pop() (shelved, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.items)
	if n == 0 {
		return shelved{}, false
	}
	it := s.items[n-1]
	s.items = s.items[:n-1]
	s.count.Add(-1)
	return it, true
}

func (s *shelf) good(it shelved) bool { return time.Since(it.since) < s.maxIdle && it.p.quiet() }

// sweep closes what went stale. One by one they are off the shelf while
// looked at, so that no client waits for the look.
func (s *shelf) sweep() {
	s.mu.Lock()
	items := s.items
	s.items = nil
	s.count.Add(-int64(len(items)))
	s.mu.Unlock()
	for _, it := range items {
		if !s.good(it) {
			it.p.close()
			continue
		}
		s.mu.Lock()
		keep := s.open && len(s.items) < s.size
		if keep {
			s.items = append(s.items, it)
			s.count.Add(1)
		}
		s.mu.Unlock()
		if !keep {
			it.p.close()
		}
	}
}
