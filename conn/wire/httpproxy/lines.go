package httpproxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
)

// Bounds of a head.
const (
	MaxHead   = 64 << 10 // bytes, first line and header together
	maxFields = 1000
	maxMethod = 32
)

// freeHead is how many bytes of a head take nothing of the budget: nearly
// every head is smaller.
const freeHead = 8 << 10

// Budget bounds the memory of all large heads together. A head takes of it
// what it has above 8 KiB, while it is read and until it is released; with its
// parsed form it needs at most three times as much memory. A nil Budget does
// not bound anything.
type Budget struct {
	left atomic.Int64
	full func()
}

// NewBudget is a budget of a number of bytes. full hears of each head that is
// refused for lack of them; nil: nobody does.
func NewBudget(bytes int64, full func()) *Budget {
	b := &Budget{full: full}
	b.left.Store(bytes)
	return b
}

func (b *Budget) take(n int) bool {
	if b == nil || n <= 0 {
		return true
	}
	if b.left.Add(-int64(n)) < 0 {
		b.left.Add(int64(n))
		if b.full != nil {
			b.full()
		}
		return false
	}
	return true
}

func (b *Budget) give(n int) {
	if b != nil && n > 0 {
		b.left.Add(int64(n))
	}
}

// share is what something took of a budget.
type share struct {
	of    *Budget
	taken int
}

// Release gives the budget back what it took. It may be called twice.
func (s *share) Release() {
	s.of.give(s.taken)
	s.taken = 0
}

// HeadReader reads heads, one after the other, and not a byte behind one. What
// has come of a head is kept until the rest does. The zero value is ready.
type HeadReader struct {
	Budget *Budget
	share
	buf     []byte
	line    int   // where the line being read begins
	skipped bool  // an empty line before the head
	head    *Head // with what the first line says, once that is read
}

// Started reports whether a part of a head is held.
func (hr *HeadReader) Started() bool { return len(hr.buf) > 0 }

// errHeadTooLarge is a head beyond MaxHead.
var errHeadTooLarge = &StatusError{http.StatusRequestHeaderFieldsTooLarge, "The request head is too large."}

// errNoRoom is a large head for which there is no memory now.
var errNoRoom = &StatusError{http.StatusServiceUnavailable, "Too many large requests are under way."}

// leastHead is the room that a head begins with: most need no more.
const leastHead = 512

// takeLine takes n bytes of b into buf, up to the end of a line at most. line
// is that line, its end included, once it is whole; else nil.
func (hr *HeadReader) takeLine(b []byte) (line []byte, n int, err error) {
	n = bytes.IndexByte(b, '\n') + 1
	ends := n > 0
	if !ends {
		n = len(b)
	}
	size := len(hr.buf) + n
	if size > MaxHead || size == MaxHead && !ends { // at least a line's end is still to come
		return nil, 0, errHeadTooLarge
	}
	hr.of = hr.Budget
	if need := size - freeHead - hr.taken; need > 0 {
		need = (need + freeHead - 1) / freeHead * freeHead
		if !hr.of.take(need) {
			return nil, 0, errNoRoom
		}
		hr.taken += need
	}
	if hr.buf == nil {
		hr.buf = make([]byte, 0, max(leastHead, n))
	}
	hr.buf = append(hr.buf, b[:n]...)
	if !ends {
		return nil, n, nil
	}
	line = hr.buf[hr.line:]
	hr.line = len(hr.buf)
	return line, n, nil
}

// nextLine reads one more line into buf, its end included, and returns it.
func (hr *HeadReader) nextLine(r *bufio.Reader) (line []byte, err error) {
	err = hr.feed(r, func(b []byte) (n int, done bool, err error) {
		line, n, err = hr.takeLine(b)
		return n, line != nil, err
	})
	return line, err
}

// feed gives take what the reader holds, and again what comes, until it is done
// or fails. It says how many bytes it took.
func (hr *HeadReader) feed(r *bufio.Reader, take func(b []byte) (n int, done bool, err error)) error {
	for {
		b, err := buffered(r)
		switch {
		case errors.Is(err, io.EOF) && hr.Started():
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		}
		n, done, err := take(b)
		if _, discarded := r.Discard(n); err == nil {
			err = discarded
		}
		if done || err != nil {
			return err
		}
	}
}

// buffered is what a reader holds, one byte at least.
func buffered(r *bufio.Reader) ([]byte, error) {
	if r.Buffered() == 0 {
		if _, err := r.Peek(1); err != nil {
			return nil, err
		}
	}
	return r.Peek(r.Buffered())
}

// finish is the head that was read, and what it holds of the budget. The
// reader starts over.
func (hr *HeadReader) finish() (text string, held share) {
	text, held = string(hr.buf), hr.share
	hr.buf, hr.line, hr.skipped, hr.head, hr.share = nil, 0, false, nil, share{}
	return text, held
}

// skip forgets an empty line before a head.
func (hr *HeadReader) skip() { hr.buf, hr.line, hr.skipped = hr.buf[:0], 0, true }

// Feed gives a request's head more of its bytes and says how many it took: all
// of them, or those up to the end of the head, which it then returns. A head
// that breaks a rule is a *StatusError.
func (hr *HeadReader) Feed(b []byte) (h *Head, n int, err error) {
	for n < len(b) {
		begins := hr.line == 0
		if hr.skipped && !hr.Started() && b[n] == '\r' {
			// RFC 9112 §2.2: ignore an empty line before the request line. One
			// only, so that a flood of them ends.
			return nil, n, badRequest("The request begins with empty lines.")
		}
		line, took, err := hr.takeLine(b[n:])
		n += took
		if line == nil || err != nil {
			return nil, n, err
		}
		if !bytes.HasSuffix(line, []byte("\r\n")) {
			return nil, n, badRequest("A line of the request head does not end with CRLF.")
		}
		switch {
		case len(line) > 2 && begins:
			// Judged at once: a peer that speaks another protocol may never
			// send the empty line.
			hr.head = &Head{Size: len(line)}
			if err := hr.head.requestLine(string(line[:len(line)-2])); err != nil {
				return nil, n, err
			}
		case len(line) > 2:
		case begins:
			hr.skip()
		default:
			h, err := hr.whole()
			return h, n, err
		}
	}
	return nil, n, nil
}

// whole takes the lines behind the first one apart.
func (hr *HeadReader) whole() (*Head, error) {
	h := hr.head
	hr.buf = hr.buf[h.Size:]
	text, held := hr.finish()
	if err := h.parse(text); err != nil {
		held.Release()
		return nil, err
	}
	h.share = held
	return h, nil
}

// Read reads a request's head. A client that closes before its first byte is
// io.EOF; a head that breaks a rule is a *StatusError; anything else is the
// reader's own error. It may be called again after a time-out.
func (hr *HeadReader) Read(r *bufio.Reader) (h *Head, err error) {
	err = hr.feed(r, func(b []byte) (n int, done bool, err error) {
		h, n, err = hr.Feed(b)
		return n, h != nil, err
	})
	return h, err
}
