package http2front

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http2"
)

// stream is one of a connection's. Its fields are under the connection's mu.
type stream struct {
	f      *front
	id     uint32
	change *sync.Cond

	in       []byte // not read yet
	inEnded  bool   // the client has said all it wants
	owed     int    // bytes read whose window was not given back
	window   int64  // for our data
	wantRoom bool   // a Write waits for more of it, or of the connection's
	outEnded bool
	broken   error // reset, by either side
	closed   bool
	left     bool // it counts no more among those that are open
	onReset  func()
	readBy   deadline
	writeBy  deadline
}

func newStream(f *front, id uint32) *stream {
	s := &stream{f: f, id: id, window: f.initial}
	s.change = sync.NewCond(&f.mu)
	return s
}

// deadline wakes who waits on a stream when it has passed.
type deadline struct {
	timer  *time.Timer
	passed bool
}

// set is called with the connection's mu held.
func (d *deadline) set(s *stream, t time.Time) {
	if d.timer != nil {
		d.timer.Stop()
	}
	d.timer, d.passed = nil, false
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		d.passed = true
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		s.f.mu.Lock()
		defer s.f.mu.Unlock()
		if d.timer == timer {
			d.passed = true
			s.change.Broadcast()
		}
	})
	d.timer = timer
}

// Read gives what the client sent. A reset is an error and never an end.
func (s *stream) Read(p []byte) (int, error) {
	s.f.mu.Lock()
	for len(s.in) == 0 {
		err := s.readable()
		if err != nil {
			s.f.mu.Unlock()
			return 0, err
		}
		s.change.Wait()
	}
	if s.readBy.passed {
		s.f.mu.Unlock()
		return 0, os.ErrDeadlineExceeded
	}
	n := copy(p, s.in)
	if s.in = s.in[n:]; len(s.in) == 0 {
		s.in = nil
	}
	give := 0
	if s.owed += n; s.owed >= window/4 && !s.inEnded && s.broken == nil {
		give, s.owed = s.owed, 0
	}
	s.f.mu.Unlock()
	if give > 0 {
		// A connection that fails here fails its reader too.
		_ = s.f.write(func() error { return s.f.framer.WriteWindowUpdate(s.id, uint32(give)) })
	}
	return n, nil
}

// readable is why nothing will come; nil: it may.
func (s *stream) readable() error {
	switch {
	case s.closed:
		return net.ErrClosed
	case s.broken != nil:
		return s.broken
	case s.inEnded:
		return io.EOF
	case s.readBy.passed:
		return os.ErrDeadlineExceeded
	}
	return nil
}

// receive takes data of size bytes, padding included, from the client.
func (s *stream) receive(data []byte, size int, ended bool) error {
	s.f.mu.Lock()
	if s.inEnded {
		s.f.mu.Unlock()
		return http2.StreamError{StreamID: s.id, Code: http2.ErrCodeStreamClosed}
	}
	if s.closed || s.broken != nil {
		s.f.mu.Unlock()
		return nil //nolint:nilerr // of a stream that ended, and not of this frame
	}
	if len(s.in)+s.owed+size > window {
		s.f.mu.Unlock()
		return http2.StreamError{StreamID: s.id, Code: http2.ErrCodeFlowControl}
	}
	s.in = append(s.in, data...)
	s.owed += size - len(data) // padding
	s.inEnded = ended
	over := ended && s.outEnded
	if over {
		s.leave()
	}
	s.change.Broadcast()
	s.f.mu.Unlock()
	if over {
		s.f.forget(s)
	}
	return nil
}

// Write sends data as the client's windows let it.
func (s *stream) Write(p []byte) (written int, err error) {
	for len(p) > 0 {
		n, err := s.room(len(p))
		if err != nil {
			return written, err
		}
		part := p[:n]
		if err := s.f.write(func() error { return s.f.framer.WriteData(s.id, false, part) }); err != nil {
			return written, err
		}
		written += n
		p = p[n:]
	}
	return written, nil
}

// room waits for a part of the windows, and takes it.
func (s *stream) room(wanted int) (int, error) {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	for {
		switch {
		case s.closed, s.outEnded:
			return 0, net.ErrClosed
		case s.broken != nil:
			return 0, s.broken
		case s.writeBy.passed:
			return 0, os.ErrDeadlineExceeded
		}
		if n := min(int64(wanted), s.window, s.f.window, int64(s.f.maxFrame)); n > 0 {
			s.window -= n
			s.f.window -= n
			return int(n), nil
		}
		s.wantRoom = true
		s.change.Wait()
		s.wantRoom = false
	}
}

// CloseWrite ends our direction; the client may go on with its own.
func (s *stream) CloseWrite() error {
	s.f.mu.Lock()
	if s.closed || s.outEnded || s.broken != nil {
		s.f.mu.Unlock()
		return net.ErrClosed
	}
	s.outEnded = true
	over := s.inEnded
	if over {
		s.leave()
	}
	s.f.mu.Unlock()
	err := s.f.write(func() error { return s.f.framer.WriteData(s.id, true, nil) })
	if over {
		s.f.forget(s)
	}
	return err
}

// leave gives the stream's place to another one, with the connection's mu held. It
// comes before the frame that ends the stream: the client may open another as soon
// as it has that.
func (s *stream) leave() {
	if !s.left {
		s.left = true
		s.f.open--
	}
}

// Close ends the stream. Without a CloseWrite before it the client sees a
// reset: what came is not all (RFC 9113 §8.5).
func (s *stream) Close() error {
	s.f.mu.Lock()
	if s.closed {
		s.f.mu.Unlock()
		return net.ErrClosed
	}
	s.closed = true
	s.in = nil
	s.readBy.set(s, time.Time{})
	s.writeBy.set(s, time.Time{})
	code, tell := http2.ErrCodeConnect, s.broken == nil && (!s.outEnded || !s.inEnded)
	if s.outEnded {
		code = http2.ErrCodeNo // all is said, and the rest need not be sent
	}
	s.f.serving--
	s.f.ended.Broadcast()
	s.leave()
	s.change.Broadcast()
	s.f.mu.Unlock()
	s.f.forget(s)
	if tell {
		return s.f.write(func() error { return s.f.framer.WriteRSTStream(s.id, code) })
	}
	return nil
}

// wasReset breaks the stream.
func (s *stream) wasReset(code http2.ErrCode) {
	s.f.mu.Lock()
	s.leave()
	var tell func()
	if s.broken == nil {
		s.broken = fmt.Errorf("the client reset the stream: %v: %w", code, syscall.ECONNRESET)
		tell, s.onReset = s.onReset, nil
	}
	s.change.Broadcast()
	s.f.mu.Unlock()
	s.f.forget(s)
	if tell != nil {
		tell()
	}
}

// OnReset calls f when the client resets the stream, or at once if it has.
func (s *stream) OnReset(f func()) {
	s.f.mu.Lock()
	broken := s.broken != nil
	if !broken {
		s.onReset = f
	}
	s.f.mu.Unlock()
	if broken {
		f()
	}
}

func (s *stream) LocalAddr() net.Addr  { return s.f.conn.LocalAddr() }
func (s *stream) RemoteAddr() net.Addr { return s.f.conn.RemoteAddr() }

// SetDeadline is both deadlines.
func (s *stream) SetDeadline(t time.Time) error { return s.setDeadlines(t, true, true) }

// SetReadDeadline bounds reads, those that wait too.
func (s *stream) SetReadDeadline(t time.Time) error { return s.setDeadlines(t, true, false) }

// SetWriteDeadline bounds the waiting for the client's window.
func (s *stream) SetWriteDeadline(t time.Time) error { return s.setDeadlines(t, false, true) }

func (s *stream) setDeadlines(t time.Time, read, write bool) error {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	if read {
		s.readBy.set(s, t)
	}
	if write {
		s.writeBy.set(s, t)
	}
	s.change.Broadcast()
	return nil
}
