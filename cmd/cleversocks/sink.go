package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"cleversocks/conn/task"
)

const (
	// maxPending bounds the bytes that wait for a slow disk, pipe or terminal.
	maxPending = 1 << 20
	// flushTimeout bounds how long close waits for them.
	flushTimeout = 2 * time.Second
)

// losses is told about lines that a sink could not write. It may write to the
// sink, and must not wait.
type losses interface {
	// count is how many more were lost.
	count(lines uint64)
	// begin is the first of them, and why.
	begin(s *sink, why error)
	// end is how many were lost in all, once writing works again.
	end(lines uint64)
}

// errFull is a reader that is slower than the log, or a stuck one.
var errFull = errors.New("it takes lines more slowly than they come")

// sink is a log's writer that never blocks: lines wait in memory for one
// goroutine that writes them. What finds no room there, or can't be written
// because a disk is full, is counted and reported once writing works again.
type sink struct {
	losses losses
	done   chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex
	wake    *sync.Cond // pending, reopened or closed changed
	out     io.Writer  // closed by the goroutine if it is a file of ours
	next    io.WriteCloser
	pending []byte
	lost    uint64
	closed  bool
}

// newSink starts the goroutine that writes to out; close ends it.
func newSink(out io.Writer, l losses) *sink {
	s := &sink{losses: l, out: out, done: make(chan struct{})}
	// A panic has nobody to be logged by: the lines after it count as lost.
	scope, _ := task.New(context.Background(), nil, "log")
	s.wake = sync.NewCond(&s.mu)
	scope.Go(func() error { defer close(s.done); s.run(); return nil })
	return s
}

// Write takes one whole line, or drops and counts it. It never fails.
func (s *sink) Write(line []byte) (int, error) {
	s.mu.Lock()
	if s.closed || len(s.pending)+len(line) > maxPending {
		first := s.lost == 0 && !s.closed
		s.lost++
		s.mu.Unlock()
		s.tell(1, first, errFull)
		return len(line), nil
	}
	s.pending = append(s.pending, line...)
	s.wake.Signal()
	s.mu.Unlock()
	return len(line), nil
}

// tell passes a loss on. Nobody holds mu, since it may come back to Write.
func (s *sink) tell(lines uint64, first bool, why error) {
	s.losses.count(lines)
	if first {
		s.losses.begin(s, why)
	}
}

// reopener is an output that opens itself again. What waits in it is not lost by that.
type reopener interface {
	io.Closer
	Reopen()
}

// reopen makes the sink write to next from now on and close what it wrote to.
func (s *sink) reopen(next io.WriteCloser) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.out.(reopener); ok {
		_ = next.Close() // the one of before goes on
		r.Reopen()
		return
	}
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
		s.mu.Lock()
		out, waits := s.out.(reopener)
		s.mu.Unlock()
		if waits {
			_ = out.Close() // it does not try any more
		}
	}
}

// run is the goroutine that writes.
func (s *sink) run() {
	var spare []byte
	torn := false // the last write ended inside a line
	for {
		batch, ok := s.take(spare)
		if !ok {
			s.closeOut()
			return
		}
		var err error
		if torn && len(batch) > 0 { // by itself: it is no line that could be lost
			var ended int
			ended, err = s.out.Write([]byte{'\n'})
			torn = ended == 0
		}
		n := 0
		if err == nil {
			n, err = s.out.Write(batch)
			torn = n > 0 && batch[n-1] != '\n' || torn && n == 0
		}
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
	var before uint64
	if err != nil {
		first := s.lost == 0
		lines := uint64(bytes.Count(unwritten, []byte{'\n'}))
		s.lost += lines
		s.mu.Unlock()
		s.tell(lines, first && lines > 0, err)
		return
	}
	if len(s.pending) < maxPending/2 && !s.closed {
		before, s.lost = s.lost, 0
	}
	s.mu.Unlock()
	if before > 0 {
		s.losses.end(before)
	}
}

// closeOut closes a file that Prepare opened; standard error is not ours.
// The caller holds mu, or is the last to use the sink.
func (s *sink) closeOut() {
	if f, ok := s.out.(io.Closer); ok && s.out != io.Writer(os.Stderr) {
		_ = f.Close() // each line was written or counted by itself
	}
}
