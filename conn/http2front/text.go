package http2front

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"cleversocks/conn/wire/httpproxy"
)

// text is a stream in HTTP/1.1: it reads as a request, and takes the answer's
// head, in one write as this program sends it, for the stream's. For a tunnel
// all that follows passes as it is.
type text struct {
	*stream
	head   []byte // not read yet
	method string
	chunks bool   // the body is told by chunks
	tail   []byte // of a chunk that did not fit
	ended  bool   // the last chunk is made

	mu       sync.Mutex
	answered bool
	refused  atomic.Bool // there will be no tunnel: the request is over
}

// Read gives the request's head, and then what the client sends.
func (t *text) Read(p []byte) (int, error) {
	switch {
	case len(t.head) > 0:
		n := copy(p, t.head)
		t.head = t.head[n:]
		return n, nil
	case t.refused.Load():
		return 0, io.EOF
	case t.chunks:
		return t.readChunk(p)
	}
	return t.stream.Read(p)
}

// readChunk gives the body in the chunked coding.
func (t *text) readChunk(p []byte) (int, error) {
	for len(t.tail) == 0 {
		if t.ended {
			return 0, io.EOF
		}
		buf := make([]byte, 8<<10)
		n, err := t.stream.Read(buf)
		if n > 0 {
			t.tail = fmt.Appendf(nil, "%x\r\n%s\r\n", n, buf[:n])
		}
		switch {
		case errors.Is(err, io.EOF):
			t.ended = true
			t.tail = append(t.tail, "0\r\n\r\n"...)
		case err != nil && n == 0:
			return 0, err
		}
	}
	n := copy(p, t.tail)
	t.tail = t.tail[n:]
	return n, nil
}

// errAnswer is a head that came in pieces, which nothing in this program sends.
var errAnswer = errors.New("http2: an answer whose head is not whole")

// Write sends the answer's head, and then data.
func (t *text) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.answered {
		return t.stream.Write(p)
	}
	end := bytes.Index(p, []byte("\r\n\r\n"))
	if end < 0 {
		return 0, errAnswer
	}
	end += len("\r\n\r\n")
	a, err := new(httpproxy.HeadReader).ReadAnswer(bufio.NewReader(bytes.NewReader(p[:end])), t.method)
	if err != nil {
		return 0, err
	}
	if err = t.answer(a.Status, a.Fields, false); err != nil {
		return 0, err
	}
	t.answered = !a.Interim()
	n, err := t.stream.Write(p[end:])
	if err == nil && t.answered && a.Status >= 300 {
		t.refused.Store(true) // whoever asks again does so on another stream
		err = t.CloseWrite()
	}
	return end + n, err
}

// plain is a request that is no tunnel: its answer's framing is HTTP/1.1's, and
// a task of its own translates.
type plain struct {
	*text
	pipe *io.PipeWriter
}

func (f *front) newPlain(t *text) *plain {
	r, w := io.Pipe()
	p := &plain{text: t, pipe: w}
	f.scope.Go(func() error { p.translate(r); return nil })
	return p
}

// Write takes a part of the answer.
func (p *plain) Write(b []byte) (int, error) { return p.pipe.Write(b) }

// CloseWrite ends the answer.
func (p *plain) CloseWrite() error { return p.pipe.Close() }

// Close ends the stream once what was written has been sent.
func (p *plain) Close() error { return p.pipe.Close() }

// translate sends the answer.
func (p *plain) translate(from *io.PipeReader) {
	err := p.send(bufio.NewReader(from))
	if err == nil {
		_, _ = io.Copy(io.Discard, from) // until the session has let go
	}
	_ = from.CloseWithError(err)
	_ = p.stream.Close()
}

func (p *plain) send(r *bufio.Reader) error {
	var heads httpproxy.HeadReader
	for {
		a, err := heads.ReadAnswer(r, p.method)
		if err != nil {
			return err
		}
		body := a.Body(r)
		fields := a.Fields
		if !a.Interim() && body.Ended() {
			return p.answer(a.Status, fields, true)
		}
		if err = p.answer(a.Status, fields, false); err != nil {
			return err
		}
		if a.Interim() {
			continue
		}
		if _, err = io.Copy(struct{ io.Writer }{p.stream}, body); err != nil {
			return err // without an end: Close resets the stream
		}
		return p.stream.CloseWrite()
	}
}
