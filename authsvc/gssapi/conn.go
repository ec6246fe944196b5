package gssapi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"cleversocks/authsvc"
	"cleversocks/conn/wire"
)

// The message types of RFC 1961, and its version.
const (
	version     = 1
	typeToken   = 1 // §3
	typeLevel   = 2 // §4
	typeMessage = 3 // §5

	frameHeader = 4
	maxFrame    = frameHeader + maxToken
	// chunk is how much of a stream one message holds: larger ones save
	// nothing, and delay what is behind them.
	chunk = 32 << 10
)

// Level is a protection of messages, as RFC 1961 §4.3 numbers it.
type Level byte

// The levels of protection. LevelNone is outside of the RFC, and what curl does.
const (
	LevelNone            Level = 0
	LevelIntegrity       Level = 1
	LevelConfidentiality Level = 2
)

// String is the level's name in the settings.
func (l Level) String() string {
	switch l {
	case LevelNone:
		return "none"
	case LevelIntegrity:
		return "integrity"
	case LevelConfidentiality:
		return "confidentiality"
	}
	return fmt.Sprintf("level %d", byte(l))
}

// frames are buffers for one message and its frame, in either direction. Each
// has room to encrypt in place.
var frames = sync.Pool{New: func() any { return new([maxFrame + block]byte) }}

// IsMalformed reports an error about bytes that are not of RFC 1961.
func IsMalformed(err error) bool { return errors.Is(err, errMalformed) || errors.Is(err, errToken) }

// MessageError is a message of the other side's that cannot be believed: changed
// on its way, out of sequence, or protected less than was agreed on.
type MessageError struct{ Err error }

// Error is the cause's.
func (e *MessageError) Error() string { return "a message of the client's: " + e.Err.Error() }

// Unwrap is the cause.
func (e *MessageError) Unwrap() error { return e.Err }

// Malformed tells this from a connection that broke.
func (e *MessageError) Malformed() bool { return true }

// errLevel is a message that is not encrypted where that was agreed on.
var errLevel = errors.New("a message is not encrypted")

func readHeader(r io.Reader, header *[frameHeader]byte, kind byte) (length int, err error) {
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, err // io.EOF between two messages
	}
	return parseHeader(header, kind)
}

func parseHeader(header *[frameHeader]byte, kind byte) (length int, err error) {
	if header[0] != version || header[1] != kind {
		return 0, fmt.Errorf("%w: version %d, type %d", errMalformed, header[0], header[1])
	}
	n := int(binary.BigEndian.Uint16(header[2:]))
	if n == 0 {
		return 0, fmt.Errorf("%w: empty", errMalformed)
	}
	return n, nil
}

// SplitToken is the token of the message at the front of b, in b's own memory,
// and how many bytes the message takes. wire.ErrShort asks for more of them.
func SplitToken(b []byte, kind byte) (token []byte, n int, err error) {
	if len(b) < frameHeader {
		return nil, 0, wire.ErrShort
	}
	length, err := parseHeader((*[frameHeader]byte)(b), kind)
	if err != nil {
		return nil, 0, err
	}
	if n = frameHeader + length; len(b) < n {
		return nil, 0, wire.ErrShort
	}
	return b[frameHeader:n], n, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// AppendFrame appends a message with a token to dst.
func AppendFrame(dst []byte, kind byte, token []byte) []byte {
	dst = append(dst, version, kind, byte(len(token)>>8), byte(len(token)))
	return append(dst, token...)
}

// AppendRefusal appends the message that the client is not let in: RFC 1961
// §3.5 has two bytes, and curl waits for four.
func AppendRefusal(dst []byte) []byte { return append(dst, version, 0xff, 0, 0) }

// Conn protects every byte of a connection, RFC 1961 §5. It is the connection
// itself that is closed, half-closed and given deadlines. An end of stream is
// not protected: the protocol has no message for it. While nothing comes, it
// holds no buffer.
type Conn struct {
	net.Conn
	from     io.Reader // Conn, or what was read of it ahead
	security authsvc.Security
	level    Level

	header  [frameHeader]byte
	buf     *[maxFrame + block]byte // of pending; nil: none
	pending []byte                  // of a message that Read has not handed out yet
}

// NewConn wraps a connection whose level is LevelIntegrity or more. from
// reads what c brings, some of which may have been read already. Closing it
// closes c.
func NewConn(c net.Conn, from io.Reader, security authsvc.Security, level Level) *Conn {
	return &Conn{Conn: c, from: from, security: security, level: level}
}

// NetConn is the connection below.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// CloseWrite ends our side of the stream.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Read reads from one message at most.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := c.fill(); err != nil {
		return 0, err
	}
	n := copy(p, c.pending)
	if c.pending = c.pending[n:]; len(c.pending) == 0 {
		c.release()
	}
	return n, nil
}

// Next is Read without a copy: up to n bytes of one message, in memory that is
// c's own, until the next call of Next or Read. A relay that uses it waits
// without a buffer, and sends a message on as a whole.
func (c *Conn) Next(n int) ([]byte, error) {
	if err := c.fill(); err != nil {
		return nil, err
	}
	lent := c.pending[:min(n, len(c.pending))]
	c.pending = c.pending[len(lent):]
	return lent, nil
}

// fill sees to it that there is something pending.
func (c *Conn) fill() error {
	for len(c.pending) == 0 {
		c.release() // what Next has lent
		if err := c.next(); err != nil {
			return err
		}
	}
	return nil
}

func (c *Conn) release() {
	if c.buf != nil {
		frames.Put(c.buf)
		c.buf, c.pending = nil, nil
	}
}

// next reads and unwraps a message.
func (c *Conn) next() error {
	n, err := readHeader(c.from, &c.header, typeMessage)
	if err != nil {
		return err
	}
	c.buf, _ = frames.Get().(*[maxFrame + block]byte)
	token := c.buf[:n]
	if _, err := io.ReadFull(c.from, token); err != nil {
		c.release()
		return noEOF(err)
	}
	message, sealed, err := c.security.Unwrap(token)
	if err == nil && c.level == LevelConfidentiality && !sealed {
		err = errLevel
	}
	switch {
	case err != nil:
		c.release()
		return &MessageError{err}
	case len(message) == 0:
		c.release()
	default:
		c.pending = message
	}
	return nil
}

// MessageSize is how much Write makes one message of.
func (*Conn) MessageSize() int { return chunk }

// Write sends p in messages of a bounded size.
func (c *Conn) Write(p []byte) (n int, err error) {
	buf, _ := frames.Get().(*[maxFrame + block]byte)
	defer frames.Put(buf)
	for len(p) > 0 {
		part := p[:min(len(p), chunk)]
		if _, err := c.Conn.Write(c.frame(buf[:0], part)); err != nil {
			return n, err
		}
		n += len(part)
		p = p[len(part):]
	}
	return n, nil
}

// frame appends the framed token of a message that fits into one.
func (c *Conn) frame(dst, message []byte) []byte {
	start := len(dst)
	dst = append(dst, version, typeMessage, 0, 0)
	dst = c.security.Wrap(dst, message, c.level == LevelConfidentiality)
	binary.BigEndian.PutUint16(dst[start+2:], uint16(len(dst)-start-frameHeader))
	return dst
}

// MaxDatagram is the largest datagram that fits into a message.
func (c *Conn) MaxDatagram() int {
	return maxToken - c.security.Overhead(c.level == LevelConfidentiality)
}

// Datagrams is c for the datagrams of an association, which share its
// sequence: from here on messages may be lost and overtake each other.
func (c *Conn) Datagrams() *Conn {
	c.security.Datagrams()
	return c
}

// WrapDatagram appends the message of a datagram to dst; nothing, if it is
// too large for one.
func (c *Conn) WrapDatagram(dst, datagram []byte) []byte {
	if len(datagram) > c.MaxDatagram() {
		return dst
	}
	return c.frame(dst, datagram)
}

// UnwrapDatagram is the datagram in a message, in the message's own memory.
func (c *Conn) UnwrapDatagram(message []byte) ([]byte, error) {
	if len(message) < frameHeader || message[0] != version || message[1] != typeMessage ||
		int(binary.BigEndian.Uint16(message[2:])) != len(message)-frameHeader {
		return nil, errMalformed
	}
	datagram, sealed, err := c.security.Unwrap(message[frameHeader:])
	if err == nil && c.level == LevelConfidentiality && !sealed {
		err = errLevel
	}
	return datagram, err
}
