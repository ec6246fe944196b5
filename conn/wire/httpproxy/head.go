// Package httpproxy is the bytes of an HTTP/1 proxy, both sides of them: the
// request head that a client sends and the answers to it, and the CONNECT
// that goes to an upstream. It is stricter than RFC 9112 lets a recipient be
// wherever leniency lets two parsers disagree (§11.2, request smuggling).
//
//	head, err := httpproxy.ReadHead(r)
//	if se, ok := errors.AsType[*httpproxy.StatusError](err); ok {
//		conn.Write(httpproxy.AppendError(nil, se.Status, se.Reason, false))
//	}
//	req, err := head.Request() // for CONNECT
//	...
//	conn.Write(httpproxy.AppendEstablished(nil))
package httpproxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Bounds of a request head.
const (
	MaxHead   = 8 << 10 // bytes, request line and header together
	maxFields = 100
	maxMethod = 32
)

// StatusError is a request that is answered with an HTTP status and one line
// that says why. The line repeats nothing that the client sent.
type StatusError struct {
	Status int
	Reason string
}

func (e *StatusError) Error() string { return fmt.Sprintf("http: %d: %s", e.Status, e.Reason) }

func badRequest(reason string) error {
	return &StatusError{Status: http.StatusBadRequest, Reason: reason}
}

// Field is one line of a header, its value without the blanks around it.
type Field struct {
	Name, Value string
}

// Head is one request head that passed every check.
type Head struct {
	Method string
	Target string // as sent
	Minor  int    // HTTP/1.Minor, 0 or 1
	Fields []Field
	// Raw is the head's bytes, from the method to the empty line's end.
	Raw []byte
	// Length is the body's Content-Length, 0 without one. Chunked says that
	// the body tells its own length; never both.
	Length  int64
	Chunked bool
}

// IsConnect reports whether the request asks for a tunnel.
func (h *Head) IsConnect() bool { return h.Method == http.MethodConnect }

// Get is the first value of a field, and whether there is one.
func (h *Head) Get(name string) (string, bool) {
	for _, f := range h.Fields {
		if strings.EqualFold(f.Name, name) {
			return f.Value, true
		}
	}
	return "", false
}

// ReadHead reads one head and not a byte behind it. A client that closes
// before its first byte is io.EOF; a head that breaks a rule is a
// *StatusError; anything else is the reader's own error.
func ReadHead(r *bufio.Reader) (*Head, error) { return new(HeadReader).Read(r) }

// HeadReader is a ReadHead that may be taken up again after a time-out: what
// was read by then is kept. The zero value is ready.
type HeadReader struct {
	buf  []byte
	line int // where the line being read begins
}

// Read reads on until the head is complete, then starts over.
func (hr *HeadReader) Read(r *bufio.Reader) (*Head, error) {
	for {
		part, err := r.ReadSlice('\n')
		if len(hr.buf)+len(part) > MaxHead {
			return nil, &StatusError{http.StatusRequestHeaderFieldsTooLarge, "The request head is too large."}
		}
		hr.buf = append(hr.buf, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull) && len(hr.buf) < MaxHead:
			continue
		case errors.Is(err, bufio.ErrBufferFull): // at least a line's end is still to come
			return nil, &StatusError{http.StatusRequestHeaderFieldsTooLarge, "The request head is too large."}
		case errors.Is(err, io.EOF) && len(hr.buf) > 0:
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		}
		line := hr.buf[hr.line:]
		if !bytes.HasSuffix(line, []byte("\r\n")) {
			return nil, badRequest("A line of the request head does not end with CRLF.")
		}
		switch {
		case len(line) > 2:
			if hr.line == 0 {
				// Judged at once: a peer that speaks another protocol may
				// never send the empty line.
				if err := new(Head).requestLine(string(line[:len(line)-2])); err != nil {
					return nil, err
				}
			}
			hr.line = len(hr.buf)
		case hr.line == 0:
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
			raw := hr.buf
			hr.buf, hr.line = nil, 0
			return parse(raw)
		}
	}
}

// Started reports whether a part of a head is held.
func (hr *HeadReader) Started() bool { return len(hr.buf) > 0 }

// parse takes a complete head apart.
func parse(raw []byte) (*Head, error) {
	h := &Head{Raw: raw}
	lines := strings.Split(strings.TrimSuffix(string(raw), "\r\n\r\n"), "\r\n")
	if err := h.requestLine(lines[0]); err != nil {
		return nil, err
	}
	if len(lines)-1 > maxFields {
		return nil, &StatusError{http.StatusRequestHeaderFieldsTooLarge, "The request has too many header fields."}
	}
	for _, line := range lines[1:] {
		f, err := parseField(line)
		if err != nil {
			return nil, err
		}
		h.Fields = append(h.Fields, f)
	}
	if err := h.framing(); err != nil {
		return nil, err
	}
	return h, nil
}

func (h *Head) requestLine(line string) error {
	parts := strings.Split(line, " ")
	if len(parts) != 3 {
		return badRequest("The request line is not method, target and version.")
	}
	h.Method, h.Target = parts[0], parts[1]
	if len(h.Method) > maxMethod || !isToken(h.Method) {
		return badRequest("The method is malformed.")
	}
	if h.Target == "" || strings.ContainsFunc(h.Target, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return badRequest("The request target is malformed.")
	}
	switch parts[2] {
	case "HTTP/1.1":
		h.Minor = 1
	case "HTTP/1.0":
	default:
		return badRequest("Only HTTP/1.0 and HTTP/1.1 are spoken here.")
	}
	return nil
}

func parseField(line string) (Field, error) {
	if line[0] == ' ' || line[0] == '\t' {
		return Field{}, badRequest("A header field is folded over two lines.")
	}
	name, value, ok := strings.Cut(line, ":")
	if !ok || !isToken(name) {
		return Field{}, badRequest("A header field's name is malformed.")
	}
	value = strings.Trim(value, " \t")
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return Field{}, badRequest("A header field has a control character in it.")
		}
	}
	return Field{Name: name, Value: value}, nil
}

// once names the fields that may appear only once: two of any of them and two
// parsers may each believe another.
var once = [...]string{"Host", "Content-Length", "Transfer-Encoding", "Proxy-Authorization"}

// framing finds how long the body is, in the one way that leaves no doubt
// (RFC 9112 §6.3).
func (h *Head) framing() error {
	var seen [len(once)]bool
	for _, f := range h.Fields {
		for i, name := range once {
			if !strings.EqualFold(f.Name, name) {
				continue
			}
			if seen[i] {
				return badRequest("The field " + name + " appears more than once.")
			}
			seen[i] = true
		}
	}
	length, hasLength := h.Get("Content-Length")
	coding, hasCoding := h.Get("Transfer-Encoding")
	switch {
	case hasLength && hasCoding:
		return badRequest("Both Content-Length and Transfer-Encoding are given.")
	case hasCoding && (h.Minor == 0 || !strings.EqualFold(coding, "chunked")):
		return badRequest("The transfer coding is not chunked, or not of HTTP/1.1.")
	case hasCoding:
		h.Chunked = true
	case hasLength:
		if length == "" || strings.Trim(length, "0123456789") != "" {
			return badRequest("Content-Length is not a number.")
		}
		n, err := strconv.ParseInt(length, 10, 64)
		if err != nil {
			return &StatusError{http.StatusRequestEntityTooLarge, "The request's body is too large."}
		}
		h.Length = n
	}
	if h.IsConnect() && (h.Chunked || h.Length > 0) {
		// RFC 9110 §9.3.6: what it would mean is not defined.
		return badRequest("CONNECT has no body.")
	}
	if _, ok := h.Get("Host"); !ok && h.Minor == 1 && !h.IsConnect() {
		return badRequest("The field Host is missing.")
	}
	return nil
}

// isToken reports whether s is a token of RFC 9110 §5.6.2.
func isToken(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return true
}
