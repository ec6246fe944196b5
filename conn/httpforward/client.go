package httpforward

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cleversocks/conn/wire/httpproxy"
)

// maxTrailer bounds a chunk's size line, and a body's trailer as a whole.
const maxTrailer = 4 << 10

// part is where in a request the reader stands.
type part uint8

const (
	partHead part = iota
	partBody
	partChunkSize
	partChunkData
	partChunkEnd
	partTrailer
)

// errBody is a body whose framing is broken.
var errBody = errors.New("malformed request body")

// clientConn is the client's connection as the http.Server sees it: only
// requests that passed httpproxy's checks come out of Read. It does not close
// the connection that it wraps.
type clientConn struct {
	net.Conn
	r     *bufio.Reader
	touch func()

	// Owned by whoever is in Read, one at a time, and after settle by Serve.
	reading sync.Mutex
	over    bool
	heads   httpproxy.HeadReader
	pending []byte // checked, to be handed out
	at      part
	left    int64  // of the body or the chunk
	line    []byte // read so far of a line of the chunked coding
	trailer int    // bytes of it
	next    *httpproxy.Head
	bad     *httpproxy.StatusError

	in, out  atomic.Int64
	inFlight atomic.Bool // a request is out of Read, its response under way
	raw      atomic.Bool // after an upgrade: bytes pass as they are
	badBody  atomic.Bool

	mu    sync.Mutex
	ended bool          // expired for good
	abort chan struct{} // closed while a deadline in the past is set
}

func newClientConn(conn net.Conn, r *bufio.Reader, first *httpproxy.Head) *clientConn {
	c := &clientConn{Conn: conn, r: r, touch: func() {}, abort: make(chan struct{})}
	c.begin(first)
	return c
}

// begin hands out a head and sets about its body.
func (c *clientConn) begin(h *httpproxy.Head) {
	c.pending = h.Raw
	c.inFlight.Store(true)
	switch {
	case h.Chunked:
		c.at = partChunkSize
	case h.Length > 0:
		c.at, c.left = partBody, h.Length
	default:
		c.at = partHead
	}
}

// Read hands out checked bytes.
func (c *clientConn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.over {
		return 0, io.EOF
	}
	for {
		if len(c.pending) > 0 {
			n := copy(p, c.pending)
			c.pending = c.pending[n:]
			c.in.Add(int64(n))
			c.touch()
			return n, nil
		}
		switch {
		case c.raw.Load():
			return c.pass(p)
		case c.next != nil || c.bad != nil:
			return c.end()
		case c.at == partBody || c.at == partChunkData:
			return c.passBody(p)
		}
		if err := c.step(); err != nil {
			return 0, err
		}
	}
}

func (c *clientConn) pass(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if n > 0 {
		c.in.Add(int64(n))
		c.touch()
	}
	return n, err
}

func (c *clientConn) passBody(p []byte) (int, error) {
	n, err := c.pass(p[:min(int64(len(p)), c.left)])
	if c.left -= int64(n); c.left == 0 {
		if c.at == partBody {
			c.at = partHead
		} else {
			c.at = partChunkEnd
		}
	}
	return n, err
}

// step reads the next head or line. Whatever it has read when a deadline
// strikes is kept for the next call.
func (c *clientConn) step() error {
	if c.at != partHead {
		line, err := c.readLine()
		if err != nil {
			return err
		}
		if err = c.chunkLine(line); err != nil {
			c.badBody.Store(true)
		}
		return err
	}
	h, err := c.heads.Read(c.r)
	if err != nil {
		if se, ok := errors.AsType[*httpproxy.StatusError](err); ok {
			c.bad = se
			return nil
		}
		return err
	}
	if h.IsConnect() {
		c.next = h
		return nil
	}
	if _, err := h.Request(); err != nil {
		if se, ok := errors.AsType[*httpproxy.StatusError](err); ok {
			c.bad = se
			return nil
		}
	}
	c.begin(h)
	return nil
}

// end is what Read says when no more requests come out. While a response is
// under way an EOF would cancel it: wait until the server calls the read off.
func (c *clientConn) end() (int, error) {
	c.mu.Lock()
	abort := c.abort
	c.mu.Unlock()
	if c.inFlight.Load() {
		<-abort
		return 0, os.ErrDeadlineExceeded
	}
	return 0, io.EOF
}

// readLine reads a line of the chunked coding, without its CRLF.
func (c *clientConn) readLine() (string, error) {
	for {
		b, err := c.r.ReadSlice('\n')
		c.line = append(c.line, b...)
		if len(c.line) > maxTrailer {
			c.badBody.Store(true)
			return "", errBody
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return "", err
		}
		line, ok := bytes.CutSuffix(c.line, []byte("\r\n"))
		text := string(line)
		c.line = c.line[:0]
		if !ok {
			c.badBody.Store(true)
			return "", errBody
		}
		return text, nil
	}
}

// chunkLine takes in one line of the chunked coding (RFC 9112 §7.1). Sizes
// are written anew and extensions and trailers left out: nothing that a
// server could read otherwise passes.
func (c *clientConn) chunkLine(line string) error {
	switch c.at {
	case partChunkSize:
		size, _, _ := strings.Cut(line, ";")
		size = strings.TrimRight(size, " \t")
		n, err := strconv.ParseUint(size, 16, 62)
		if err != nil || strings.ContainsAny(size, "+-_") || len(size) > 15 {
			return errBody
		}
		c.left = int64(n)
		c.pending = fmt.Appendf(nil, "%x\r\n", n)
		c.at = partChunkData
		if n == 0 {
			c.at, c.trailer = partTrailer, 0
		}
	case partChunkEnd:
		if line != "" {
			return errBody
		}
		c.pending = []byte("\r\n")
		c.at = partChunkSize
	case partTrailer:
		if c.trailer += len(line) + 2; c.trailer > maxTrailer {
			return errBody
		}
		if line == "" {
			c.pending = []byte("\r\n")
			c.at = partHead
		}
	case partHead, partBody, partChunkData:
	}
	return nil
}

// Write counts what goes to the client.
func (c *clientConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if n > 0 {
		c.out.Add(int64(n))
		c.touch()
	}
	return n, err
}

// Close ends what waits in Read; the connection stays open, it is the
// caller's.
func (c *clientConn) Close() error {
	_ = c.SetReadDeadline(time.Unix(1, 0))
	return nil
}

// SetDeadline is both deadlines.
func (c *clientConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline also calls off a Read that waits for no byte.
func (c *clientConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil
	}
	past := !t.IsZero() && !t.After(time.Now())
	select {
	case <-c.abort:
		if !past {
			c.abort = make(chan struct{})
		}
	default:
		if past {
			close(c.abort)
		}
	}
	return c.Conn.SetReadDeadline(t)
}

// SetWriteDeadline does nothing once the connection has expired for good.
func (c *clientConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// expire ends every read and write for good: no deadline that the server sets
// later takes it back.
func (c *clientConn) expire() {
	past := time.Unix(1, 0)
	_ = c.SetReadDeadline(past)
	_ = c.SetWriteDeadline(past)
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	_ = c.Conn.SetDeadline(past)
}

// settle ends a Read that the server has left behind (it reads ahead for a
// next request, and after a panic does not wait for that), and every later
// one: the reader is the caller's again.
func (c *clientConn) settle() {
	_ = c.SetReadDeadline(time.Unix(1, 0))
	c.reading.Lock()
	defer c.reading.Unlock()
	c.over = true
}

// restore takes the deadlines off for what comes after.
func (c *clientConn) restore() { _ = c.SetDeadline(time.Time{}) }
