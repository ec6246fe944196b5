package main

import (
	"bytes"
	"io"
	"os"
	"sync"
	"time"
)

const (
	// maxPending bounds the bytes that wait for a slow disk, pipe or terminal.
	maxPending = 1 << 20
	// flushTimeout bounds how long close waits for them.
	flushTimeout = 2 * time.Second
)

// sink is a log's writer that never blocks: lines wait in memory for one
// goroutine that writes them. What finds no room there, or can't be written
// because a disk is full, is counted and reported once writing works again.
type sink struct {
	report func(lost uint64)
	done   chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex
	wake    *sync.Cond // pending, reopened or closed changed
	out     io.Writer  // closed by the goroutine if it is a file of ours
	next    io.WriteCloser
	pending []byte
	lost    uint64
	closed  bool
}

// newSink starts the goroutine that writes to out; close ends it. report is
// called by that goroutine and may write to the sink.
func newSink(out io.Writer, report func(lost uint64)) *sink {
	s := &sink{report: report, out: out, done: make(chan struct{})}
	s.wake = sync.NewCond(&s.mu)
	go s.run()
	return s
}

// Write takes one whole line, or drops and counts it. It never fails.
func (s *sink) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.pending)+len(line) > maxPending {
		s.lost++
		return len(line), nil
	}
	s.pending = append(s.pending, line...)
	s.wake.Signal()
	return len(line), nil
}

// reopen makes the sink write to next from now on and close what it wrote to.
func (s *sink) reopen(next io.WriteCloser) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next != nil {
		_ = s.next.Close() // nothing was written to it
	}
	s.next = next
	s.wake.Signal()
}

// close ends the sink and waits until what is pending was written, or until
// flushTimeout: a pipe that nobody reads does not hold up the exit.
func (s *sink) close() {
	s.mu.Lock()
	s.closed = true
	s.wake.Signal()
	s.mu.Unlock()
	timeout := time.NewTimer(flushTimeout)
	defer timeout.Stop()
	select {
	case <-s.done:
	case <-timeout.C:
	}
}

// run is the goroutine that writes.
func (s *sink) run() {
	defer close(s.done)
	var spare []byte
	torn := false // the last write ended inside a line
	for {
		batch, ok := s.take(spare)
		if !ok {
			s.closeOut()
			return
		}
		if torn && len(batch) > 0 {
			batch = append([]byte{'\n'}, batch...)
		}
		n, err := s.out.Write(batch)
		torn = n > 0 && batch[n-1] != '\n' || torn && n == 0
		s.settle(batch[n:], err)
		spare = batch[:0]
	}
}

// take waits for pending bytes and returns them, leaving spare in their
// place; false: the sink is closed and empty.
func (s *sink) take(spare []byte) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.pending) == 0 && s.next == nil && !s.closed {
		s.wake.Wait()
	}
	if s.next != nil {
		s.closeOut()
		s.out, s.next = s.next, nil
	}
	batch := s.pending
	s.pending = spare
	return batch, len(batch) > 0 || !s.closed
}

// settle counts what was not written, or reports what was lost before.
func (s *sink) settle(unwritten []byte, err error) {
	s.mu.Lock()
	var lost uint64
	if err != nil {
		s.lost += uint64(bytes.Count(unwritten, []byte{'\n'}))
	} else if len(s.pending) < maxPending/2 && !s.closed {
		lost, s.lost = s.lost, 0
	}
	s.mu.Unlock()
	if lost > 0 {
		s.report(lost)
	}
}

// closeOut closes a file that Apply opened; standard error is not ours.
// The caller holds mu, or is the last to use the sink.
func (s *sink) closeOut() {
	if f, ok := s.out.(io.Closer); ok && s.out != io.Writer(os.Stderr) {
		_ = f.Close() // each line was written or counted by itself
	}
}
