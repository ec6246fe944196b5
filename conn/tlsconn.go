package conn

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
)

// A TLS conn reads and writes a record of at most 16 KiB at a time. A system call
// each costs as much as the cipher, so what goes to a client is sent some records
// at a time, and what came from it in one read of the socket is handed on as one
// chunk: see tlsConn.Write and Gather.

// tlsRecord is the most that a record carries (RFC 8446 §5.1), and tlsOverhead the
// most that one is longer than what it carries (§5.2, and RFC 5246 §6.2.3).
const (
	tlsRecord   = 16 << 10
	tlsOverhead = 5 + 256
)

// tlsBatch is how much Write sends at a time.
const tlsBatch = 4 * tlsRecord

// batches are what records are gathered in before they are sent.
var batches = sync.Pool{New: func() any { return new([tlsBatch + tlsBatch/tlsRecord*tlsOverhead]byte) }}

// tlsConn is a client's TLS.
type tlsConn struct {
	*tls.Conn
	below *tlsSocket
	// Of the goroutine that reads: see rest.
	rested bool
	over   bool // a read has failed, and the next one fails without asking the socket
}

// NetConn is the connection below, for deadlines and resets.
func (c *tlsConn) NetConn() net.Conn { return c.below.Conn }

// Read is that of tls.Conn, but for the end: it takes an end of the socket for an
// end of the stream. By the letter of RFC 8446 §6.1 the peer must send close_notify
// first; browsers don't, and haproxy and stunnel pass it on as an end too.
func (c *tlsConn) Read(b []byte) (int, error) {
	c.rest()
	n, err := c.Conn.Read(b)
	c.note(err)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

// Gather reads what has come already, in whole records, and returns how much that
// is: it neither waits nor asks the socket. What ends the stream is the next Read's
// to say. It must not be called beside Read.
func (c *tlsConn) Gather(b []byte) (n int) {
	c.below.dry = true
	defer func() { c.below.dry = false }()
	for n < len(b) {
		more, err := c.Conn.Read(b[n:])
		n += more
		c.note(err)
		if err != nil {
			break // errDry, or one that comes again
		}
	}
	return n
}

// note notes an error that comes again, as those do that are no timeouts: an end of the
// stream may come together with the last bytes.
func (c *tlsConn) note(err error) {
	if err == nil {
		return
	}
	timeout, ok := errors.AsType[net.Error](err)
	c.over = c.over || !ok || !timeout.Timeout()
}

// MessageSize is how much Write sends at a time.
func (*tlsConn) MessageSize() int { return tlsBatch }

// Write is that of tls.Conn, but for sending the records of a batch at once.
func (c *tlsConn) Write(b []byte) (written int, err error) {
	for len(b) > tlsRecord && err == nil {
		part := b[:min(len(b), tlsBatch)]
		if err = c.writeBatch(part); err == nil {
			written += len(part)
			b = b[len(part):]
		}
	}
	if err != nil || len(b) == 0 {
		return written, err
	}
	n, err := c.Conn.Write(b)
	return written + n, err
}

func (c *tlsConn) writeBatch(b []byte) error {
	batch, _ := batches.Get().(*[tlsBatch + tlsBatch/tlsRecord*tlsOverhead]byte)
	defer batches.Put(batch)
	c.below.cork(batch[:0])
	_, err := c.Conn.Write(b)
	return errors.Join(err, c.below.uncork())
}

// tlsSocket is what a tls.Conn reads from and writes to.
type tlsSocket struct {
	net.Conn
	dry   bool      // reads find nothing; of the goroutine that reads
	begun bool      // the client's first byte was TLS
	turns *tlsTurns // while hands are shaken; then nil

	// A read that meets a key update writes as well (RFC 8446 §4.6.3).
	mu     sync.Mutex
	corked bool
	batch  []byte
}

// Read is the socket's, but in a Gather.
func (s *tlsSocket) Read(b []byte) (int, error) {
	if s.dry {
		return 0, errDry{}
	}
	if s.turns == nil {
		return s.Conn.Read(b)
	}
	n, err := s.turns.read(s.Conn, b)
	if n > 0 && !s.begun {
		if s.begun = b[0] == recordHandshake; !s.begun {
			return 0, errNoTLS
		}
	}
	return n, err
}

// recordHandshake is the type of the record that a client begins with (RFC 8446
// §5.1).
const recordHandshake = 22

// errNoTLS is told at the first byte. A whole record header is five: a client that
// greets in SOCKS, which takes three or four, would wait for an answer, and we for the
// rest.
var errNoTLS = errors.New("tls: the client does not speak TLS")

// Rest is for a handshake that waits for something else than its client.
func (s *tlsSocket) Rest() {
	if s.turns != nil {
		s.turns.Rest()
	}
}

// Write is the socket's, or keeps the bytes for uncork.
func (s *tlsSocket) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.turns != nil {
		s.turns.Rest()
	}
	if s.corked {
		s.batch = append(s.batch, b...)
		return len(b), nil
	}
	return s.Conn.Write(b)
}

func (s *tlsSocket) cork(into []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.corked, s.batch = true, into
}

// uncork sends what was kept.
func (s *tlsSocket) uncork() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	batch := s.batch
	s.corked, s.batch = false, nil
	if len(batch) == 0 {
		return nil
	}
	_, err := s.Conn.Write(batch)
	return err
}

// errDry is a read that would have to ask the socket. A tls.Conn takes errors that
// call themselves temporary for no end of it, and goes on with what it had.
type errDry struct{}

func (errDry) Error() string   { return "no whole record has come" }
func (errDry) Timeout() bool   { return true }
func (errDry) Temporary() bool { return true }
