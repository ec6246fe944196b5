package httpproxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
)

// maxTrailer bounds a chunk's size line, and a body's trailer as a whole.
const maxTrailer = 4 << 10

// ErrMalformedBody is a body whose framing is broken.
var ErrMalformedBody = errors.New("http: malformed body")

// Body reads a message's content by its framing, and not a byte behind it.
type Body struct {
	// Trailer are the fields behind a chunked body, once Read has said
	// io.EOF: of a server's, those that are well-formed; of a client's none.
	Trailer []Field

	r       *bufio.Reader
	lenient bool  // a server's
	left    int64 // of the body or the chunk; UntilClose
	at      part
	line    []byte // read so far of a line of the chunked coding
	read    int    // bytes of the trailer
}

// part is where in a body the reader stands.
type part uint8

const (
	partData      part = iota // of a body with a length
	partChunkSize             // before a chunk's size line
	partChunkData
	partChunkEnd // before the line's end behind a chunk
	partTrailer
	partEnd
)

// Body is the content of the request whose head was just read from r.
func (h *Head) Body(r *bufio.Reader) *Body { return newBody(r, h.Length, h.Chunked, false) }

// Body is the content of the answer whose head was just read from r.
func (a *Answer) Body(r *bufio.Reader) *Body { return newBody(r, a.Length, a.Chunked, true) }

func newBody(r *bufio.Reader, length int64, chunked, lenient bool) *Body {
	b := &Body{r: r, left: length, lenient: lenient}
	switch {
	case chunked:
		b.at = partChunkSize
	case length == 0:
		b.at = partEnd
	}
	return b
}

// Ended reports whether all of the body has been read.
func (b *Body) Ended() bool { return b.at == partEnd }

// Read reads content, as much as there is at once. io.EOF is the body's end,
// io.ErrUnexpectedEOF a connection that ended before. It may be called again
// after a time-out.
func (b *Body) Read(p []byte) (int, error) {
	for {
		switch b.at {
		case partEnd:
			return 0, io.EOF
		case partData, partChunkData:
			return b.readData(p)
		case partChunkSize, partChunkEnd, partTrailer:
		}
		line, err := b.readLine()
		if err == nil {
			err = b.chunkLine(line)
		}
		if err != nil {
			return 0, err
		}
	}
}

func (b *Body) readData(p []byte) (int, error) {
	if b.left == UntilClose {
		n, err := b.r.Read(p)
		if errors.Is(err, io.EOF) {
			b.at = partEnd
		}
		return n, err
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	if b.left -= int64(n); b.left == 0 {
		if b.at == partData {
			b.at = partEnd
		} else {
			b.at = partChunkEnd
		}
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// readLine reads a line of the chunked coding, without its end.
func (b *Body) readLine() (string, error) {
	for {
		part, err := b.r.ReadSlice('\n')
		b.line = append(b.line, part...)
		if len(b.line) > maxTrailer {
			return "", ErrMalformedBody
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && b.lenient && b.at == partTrailer && b.read == 0 && len(b.line) == 0:
			return "", nil // the last chunk has come, the line behind it never will
		case errors.Is(err, io.EOF):
			return "", io.ErrUnexpectedEOF
		case err != nil:
			return "", err
		}
		line, ok := bytes.CutSuffix(b.line, []byte("\r\n"))
		if !ok && b.lenient {
			line, ok = bytes.TrimSuffix(b.line, []byte("\n")), true
		}
		text := string(line)
		b.line = b.line[:0]
		if !ok {
			return "", ErrMalformedBody
		}
		return text, nil
	}
}

// chunkLine takes in one line of the chunked coding (RFC 9112 §7.1).
func (b *Body) chunkLine(line string) error {
	switch b.at {
	case partChunkSize:
		size, _, _ := strings.Cut(line, ";")
		size = strings.TrimRight(size, " \t")
		if b.lenient {
			size = strings.TrimLeft(size, " \t")
		}
		n, err := strconv.ParseUint(size, 16, 62)
		if err != nil || strings.ContainsAny(size, "+-_") || len(size) > 15 && !b.lenient {
			return ErrMalformedBody
		}
		b.left = int64(n)
		b.at = partChunkData
		if n == 0 {
			b.at, b.read = partTrailer, 0
		}
	case partChunkEnd:
		if line != "" {
			return ErrMalformedBody
		}
		b.at = partChunkSize
	case partTrailer:
		if b.read += len(line) + 2; b.read > maxTrailer {
			return ErrMalformedBody
		}
		if line == "" {
			b.at = partEnd
		} else if f, err := parseField(line); err == nil && b.lenient && maySendInTrailer(f.Name) {
			b.Trailer = append(b.Trailer, f)
		}
	case partData, partChunkData, partEnd:
	}
	return nil
}

// maySendInTrailer keeps out what would change a message's framing or routing
// after the fact (RFC 9110 §6.5.1).
func maySendInTrailer(name string) bool {
	switch strings.ToLower(name) {
	case "content-length", "transfer-encoding", "host", "connection", "trailer", "te", "upgrade", "keep-alive",
		"authorization", "proxy-authorization", "proxy-authenticate", "www-authenticate", "set-cookie", "content-encoding":
		return false
	}
	return true
}
