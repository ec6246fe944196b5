package upstream

import (
	"errors"
	"os"
	"time"
)

// quiet reports whether the connection is open and nothing came in on it. A
// peer that closed, or that sent what nobody asked for, makes it stale.
func (p *prepared) quiet() bool {
	switch peek(p.raw) {
	case peekNothing:
		return true
	case peekData:
		// Under TLS it may be a session ticket, which only a read consumes.
		return p.conn != p.raw && p.readsNothing()
	case peekEnded:
	}
	return false
}

// readsNothing lets TLS work off its own records, for a moment: their bytes
// are here already.
func (p *prepared) readsNothing() bool {
	if p.conn.SetReadDeadline(time.Now().Add(time.Millisecond)) != nil {
		return false
	}
	var b [1]byte
	_, err := p.conn.Read(b[:])
	return errors.Is(err, os.ErrDeadlineExceeded) && p.conn.SetReadDeadline(time.Time{}) == nil
}

type peeked uint8

const (
	peekEnded   peeked = iota // closed, reset or not to be told
	peekNothing               // open, nothing to read
	peekData
)
