package admin

import (
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// turn is whether clients are let in. While it is given away, whoever connects
// waits in the socket's queue, which a successor accepts from as well.
type turn struct {
	accepting sync.Mutex // held while a client is accepted

	mu     sync.Mutex
	back   chan struct{} // closed once the turn is taken back; nil: it is ours
	closed chan struct{}
	once   sync.Once // of closed
}

// give lets nobody in from here on; it returns when no accept is under way.
func (t *turn) give(l net.Listener) {
	t.mu.Lock()
	if t.back == nil {
		t.back = make(chan struct{})
	}
	t.mu.Unlock()
	if !expire(l, time.Unix(1, 0)) {
		return // the loop sees it after the next client
	}
	t.accepting.Lock()
	defer t.accepting.Unlock()
}

// take lets clients in again.
func (t *turn) take(l net.Listener) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.back == nil {
		return
	}
	expire(l, time.Time{})
	close(t.back)
	t.back = nil
}

// given reports whether the turn is another process's; back is closed when it is
// ours again.
func (t *turn) given() (back <-chan struct{}, given bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.back, t.back != nil
}

// accept waits for the turn and for a client.
func (t *turn) accept(l net.Listener) (net.Conn, error) {
	for {
		if back, given := t.given(); given {
			select {
			case <-back:
			case <-t.closed:
				return nil, net.ErrClosed
			}
			continue
		}
		t.accepting.Lock()
		c, err := l.Accept()
		t.accepting.Unlock()
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return c, err
		}
	}
}

// end wakes whoever waits for the turn.
func (t *turn) end() { t.once.Do(func() { close(t.closed) }) }

// expire ends the accept that is under way, and each one after it until a zero
// time; false: the socket has no way to.
func expire(l net.Listener, at time.Time) bool {
	d, ok := l.(interface{ SetDeadline(t time.Time) error })
	return ok && d.SetDeadline(at) == nil
}

// Yield leaves the clients to a successor that has the same socket: none is let
// in, those who ask nothing are let go, and the others after their answer. What
// would change something is refused: only the successor's state counts.
func (s *Server) Yield() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.door.turn.give(s.door.Listener)
	if s.http != nil {
		s.http.SetKeepAlivesEnabled(false)
	}
}

// Resume takes them back.
func (s *Server) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http != nil {
		s.http.SetKeepAlivesEnabled(true)
	}
	s.door.turn.take(s.door.Listener)
}

// serving makes the server known to Yield, which may have been called already.
func (s *Server) serving(h *http.Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, given := s.door.turn.given()
	h.SetKeepAlivesEnabled(!given)
	s.http = h
}

// turned refuses what comes after the turn was given, over a connection of
// before, and would change something here, which the successor does not hear of.
func (s *Server) turned(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, given := s.door.turn.given(); given && r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Retry-After", "1")
			fail(w, Busy("another process has taken over: ask again"))
			return
		}
		next.ServeHTTP(w, r)
	})
}
