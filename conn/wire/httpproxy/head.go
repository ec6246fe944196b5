// Package httpproxy is the bytes of an HTTP/1 proxy, both sides of them: the
// request head that a client sends and the answers to it, and the CONNECT
// that goes to an upstream. It is stricter than RFC 9112 lets a recipient be
// wherever leniency lets two parsers disagree (§11.2, request smuggling).
//
//	head, err := new(httpproxy.HeadReader).Read(r)
//	if se, ok := errors.AsType[*httpproxy.StatusError](err); ok {
//		conn.Write(httpproxy.AppendError(nil, se.Status, se.Reason, false))
//	}
//	req, err := head.Request() // for CONNECT
//	...
//	conn.Write(httpproxy.AppendEstablished(nil, ""))
package httpproxy

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
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
	Size   int // bytes, from the method to the empty line's end
	// Length is the body's Content-Length, 0 without one. Chunked says that
	// the body tells its own length; never both.
	Length    int64
	HasLength bool
	Chunked   bool
	// The head's Release gives back what it took of its reader's Budget.
	share
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

// parse takes the lines behind the first one apart, the empty one included.
func (h *Head) parse(text string) error {
	h.Size += len(text)
	count := strings.Count(text, "\n") - 1 // the empty line is none
	if count > maxFields {
		return &StatusError{http.StatusRequestHeaderFieldsTooLarge, "The request has too many header fields."}
	}
	h.Fields = make([]Field, 0, count)
	for {
		line, rest, _ := strings.Cut(text, "\r\n")
		if line == "" {
			return h.framing()
		}
		f, err := parseField(line)
		if err != nil {
			return err
		}
		h.Fields = append(h.Fields, f)
		text = rest
	}
}

func (h *Head) requestLine(line string) error {
	method, rest, ok := strings.Cut(line, " ")
	target, version, both := strings.Cut(rest, " ")
	if !ok || !both || strings.Contains(version, " ") {
		return badRequest("The request line is not method, target and version.")
	}
	h.Method, h.Target = method, target
	if len(h.Method) > maxMethod || !isToken(h.Method) {
		return badRequest("The method is malformed.")
	}
	for i := range len(h.Target) {
		// Bytes outside ASCII pass: servers see them as their clients sent them.
		if c := h.Target[i]; c <= ' ' || c == 0x7f {
			return badRequest("The request target has a control character in it.")
		}
	}
	if h.Target == "" {
		return badRequest("The request has no target.")
	}
	switch version {
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
		h.Length, h.HasLength = n, true
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
