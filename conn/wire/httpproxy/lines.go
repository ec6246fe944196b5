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

// HeadReader reads heads, one after the other, and not a byte behind one. It
// may be taken up again after a time-out: what was read by then is kept. The
// zero value is ready.
type HeadReader struct {
	Budget *Budget
	share
	buf  []byte
	line int // where the line being read begins
}

// Started reports whether a part of a head is held.
func (hr *HeadReader) Started() bool { return len(hr.buf) > 0 }

// errHeadTooLarge is a head beyond MaxHead.
var errHeadTooLarge = &StatusError{http.StatusRequestHeaderFieldsTooLarge, "The request head is too large."}

// errNoRoom is a large head for which there is no memory now.
var errNoRoom = &StatusError{http.StatusServiceUnavailable, "Too many large requests are under way."}

// nextLine reads one more line into buf, its end included, and returns it.
func (hr *HeadReader) nextLine(r *bufio.Reader) ([]byte, error) {
	for {
		part, err := r.ReadSlice('\n')
		size := len(hr.buf) + len(part)
		if size > MaxHead {
			return nil, errHeadTooLarge
		}
		hr.of = hr.Budget
		if need := size - freeHead - hr.taken; need > 0 {
			need = (need + freeHead - 1) / freeHead * freeHead
			if !hr.of.take(need) {
				return nil, errNoRoom
			}
			hr.taken += need
		}
		hr.buf = append(hr.buf, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull) && len(hr.buf) < MaxHead:
			continue
		case errors.Is(err, bufio.ErrBufferFull): // at least a line's end is still to come
			return nil, errHeadTooLarge
		case errors.Is(err, io.EOF) && len(hr.buf) > 0:
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		}
		line := hr.buf[hr.line:]
		hr.line = len(hr.buf)
		return line, nil
	}
}

// finish is the head that was read, and what it holds of the budget. The
// reader starts over.
func (hr *HeadReader) finish() (text string, held share) {
	text, held = string(hr.buf), hr.share
	hr.buf, hr.line, hr.share = nil, 0, share{}
	return text, held
}

// Read reads a request's head. A client that closes before its first byte is
// io.EOF; a head that breaks a rule is a *StatusError; anything else is the
// reader's own error.
func (hr *HeadReader) Read(r *bufio.Reader) (*Head, error) {
	for {
		begins := hr.line == 0
		line, err := hr.nextLine(r)
		if err != nil {
			return nil, err
		}
		if !bytes.HasSuffix(line, []byte("\r\n")) {
			return nil, badRequest("A line of the request head does not end with CRLF.")
		}
		switch {
		case len(line) > 2 && begins:
			// Judged at once: a peer that speaks another protocol may never
			// send the empty line.
			if err := new(Head).requestLine(string(line[:len(line)-2])); err != nil {
				return nil, err
			}
		case len(line) > 2:
		case begins:
			// RFC 9112 §2.2: ignore an empty line before the request line.
			// One only, so that a flood of them ends.
			hr.buf, hr.line = hr.buf[:0], 0
			next, err := r.Peek(1)
			if err != nil {
				return nil, err
			}
			if next[0] == '\r' {
				return nil, badRequest("The request begins with empty lines.")
			}
		default:
			text, held := hr.finish()
			h, err := parse(text)
			if err != nil {
				held.Release()
				return nil, err
			}
			h.share = held
			return h, nil
		}
	}
}
