package httpproxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// ErrMalformedAnswer is a server's answer that no two parsers would have to
// read alike.
var ErrMalformedAnswer = errors.New("http: malformed answer")

func malformed(what string) error { return fmt.Errorf("%w: %s", ErrMalformedAnswer, what) }

// UntilClose is the Length of a body that ends with its connection.
const UntilClose = -1

// Answer is the head of a server's answer. Servers are read with the leniency
// that squid, tinyproxy, privoxy and Apache agree on: lines without a carriage
// return, folded ones, blanks before a colon, a length that is told twice. What
// is ambiguous in a way that could end the body at another place is an error.
type Answer struct {
	Status int
	Reason string
	Minor  int  // HTTP/1.Minor, 0 or 1
	ICY    bool // an internet radio's, which takes the place of HTTP/1.0
	Fields []Field
	Size   int
	// Length is the body's, 0 without one, or UntilClose. Chunked says that
	// the body tells its own length.
	Length  int64
	Chunked bool
	// Reusable says that the connection serves another request behind this
	// answer's body.
	Reusable bool
	share
}

// Get is the first value of a field, and whether there is one.
func (a *Answer) Get(name string) (string, bool) {
	return (&Head{Fields: a.Fields}).Get(name)
}

// Interim reports an answer that another one follows (RFC 9110 §15.2).
func (a *Answer) Interim() bool {
	return a.Status < http.StatusOK && a.Status != http.StatusSwitchingProtocols
}

// ReadAnswer reads the head of an answer to a request with a method. An error
// is ErrMalformedAnswer, one about the size, or the reader's own; io.EOF is a
// server that closed without a byte.
func (hr *HeadReader) ReadAnswer(r *bufio.Reader, method string) (*Answer, error) {
	for {
		begins := hr.line == 0
		line, err := hr.nextLine(r)
		switch {
		case err != nil:
			return nil, answerError(err)
		case begins && len(bytes.TrimRight(line, "\r\n")) == 0 && len(line) <= 2:
			// Servers that count a body's length wrong leave one behind.
			hr.skip()
			if next, err := r.Peek(1); err != nil {
				return nil, err
			} else if next[0] == '\r' || next[0] == '\n' {
				return nil, malformed("it begins with empty lines")
			}
			continue
		case begins && !isStatusLine(line):
			return nil, malformed("it does not begin with HTTP/")
		case begins || len(line) > 2 || line[0] != '\r' && line[0] != '\n':
			continue
		}
		text, held := hr.finish()
		a, err := parseAnswer(text, method)
		if err != nil {
			held.Release()
			return nil, err
		}
		a.share = held
		return a, nil
	}
}

// answerError gives a bound that a head met its meaning for a server's.
func answerError(err error) error {
	switch {
	case errors.Is(err, errHeadTooLarge):
		return malformed("its head is too large")
	case errors.Is(err, errNoRoom):
		return fmt.Errorf("%w: too many large heads are being read", ErrMalformedAnswer)
	}
	return err
}

// isStatusLine tells HTTP/1 apart from anything else. Internet radio says ICY.
func isStatusLine(line []byte) bool {
	const http = "HTTP/"
	return len(line) > len(http) && bytes.EqualFold(line[:len(http)], []byte(http)) && '0' <= line[len(http)] && line[len(http)] <= '9' ||
		bytes.HasPrefix(line, []byte("ICY "))
}

func parseAnswer(text, method string) (*Answer, error) {
	a := &Answer{Size: len(text)}
	first, rest, _ := strings.Cut(text, "\n")
	if err := a.statusLine(strings.TrimRight(first, "\r \t")); err != nil {
		return nil, err
	}
	count := strings.Count(rest, "\n") - 1
	if count > maxFields {
		return nil, malformed("too many fields")
	}
	a.Fields = make([]Field, 0, count)
	for rest != "" {
		line, more, _ := strings.Cut(rest, "\n")
		rest = more
		if err := a.field(strings.TrimSuffix(line, "\r")); err != nil {
			return nil, err
		}
	}
	return a, a.framing(method)
}

// statusLine reads "HTTP/1.x NNN reason".
func (a *Answer) statusLine(line string) error {
	version, rest, _ := strings.Cut(line, " ")
	a.ICY = version == "ICY"
	if !a.ICY && !strings.HasSuffix(version, "1.0") {
		a.Minor = 1
	}
	status, reason, _ := strings.Cut(strings.TrimLeft(rest, " "), " ")
	n, err := strconv.ParseUint(status, 10, 16)
	if err != nil || len(status) != 3 || n < 100 {
		return malformed("its status is no number of three digits")
	}
	a.Status, a.Reason = int(n), clean(reason)
	return nil
}

// field takes in one line of the header.
func (a *Answer) field(line string) error {
	switch {
	case line == "":
		return nil
	case strings.IndexByte(line, 0) >= 0:
		return malformed("a field has a NUL in it")
	case line[0] == ' ' || line[0] == '\t': // RFC 9112 §5.2: unfolded
		if n := len(a.Fields); n > 0 {
			last := &a.Fields[n-1]
			last.Value = strings.TrimSpace(last.Value + " " + clean(strings.TrimSpace(line)))
		}
		return nil
	}
	name, value, ok := strings.Cut(line, ":")
	name = strings.TrimRight(name, " \t") // RFC 9112 §5.1: a proxy removes them
	if !ok || !isToken(name) {
		// It means nothing, and the peers either refuse it or pass it on: an
		// answer that is otherwise whole is worth more than that line.
		return nil
	}
	a.Fields = append(a.Fields, Field{Name: name, Value: clean(strings.Trim(value, " \t"))})
	return nil
}

// clean replaces a bare carriage return, which some read as a line's end, as
// RFC 9112 §2.2 asks for.
func clean(s string) string { return strings.ReplaceAll(s, "\r", " ") }

// framing finds where the body ends (RFC 9112 §6.3).
func (a *Answer) framing(method string) error {
	chunked, err := a.codings()
	if err != nil {
		return err
	}
	length, hasLength, err := a.contentLength()
	if err != nil && !chunked {
		return err
	}
	a.Reusable = keepsAlive(a.Minor, a.Fields)
	switch {
	case a.Status < http.StatusOK, a.Status == http.StatusNoContent, a.Status == http.StatusNotModified, method == http.MethodHead:
		// No body, whatever the fields say.
	case chunked:
		a.Chunked = true
	case !hasLength:
		a.Length, a.Reusable = UntilClose, false
	default:
		a.Length = length
	}
	if chunked && (hasLength || a.Minor == 0) {
		a.Reusable = false // RFC 9112 §6.1: possibly an attempt to split
	}
	return nil
}

// codings reads Transfer-Encoding. Only chunked may be used with a client that
// offers no other, and none is offered from here.
func (a *Answer) codings() (chunked bool, err error) {
	for _, f := range a.Fields {
		if !strings.EqualFold(f.Name, "Transfer-Encoding") {
			continue
		}
		for coding := range strings.SplitSeq(f.Value, ",") {
			switch coding = strings.ToLower(strings.TrimSpace(coding)); coding {
			case "", "identity": // of RFC 2616: nothing
			case "chunked":
				chunked = true
			default:
				return false, malformed("an unknown transfer coding")
			}
		}
	}
	return chunked, nil
}

// contentLength reads Content-Length, which may be told several times as long
// as it is the same.
func (a *Answer) contentLength() (length int64, ok bool, err error) {
	for _, f := range a.Fields {
		if !strings.EqualFold(f.Name, "Content-Length") {
			continue
		}
		for text := range strings.SplitSeq(f.Value, ",") {
			text = strings.Trim(text, " \t")
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil || strings.Trim(text, "0123456789") != "" || ok && n != length {
				return 0, true, malformed("its length is no number, or told in two ways")
			}
			length, ok = n, true
		}
	}
	return length, ok, nil
}

// keepsAlive is what the Connection fields say of a connection's future.
func keepsAlive(minor int, fields []Field) bool {
	for _, f := range fields {
		if !strings.EqualFold(f.Name, "Connection") && !strings.EqualFold(f.Name, "Proxy-Connection") {
			continue
		}
		for option := range strings.SplitSeq(f.Value, ",") {
			switch strings.ToLower(strings.TrimSpace(option)) {
			case "close":
				return false
			case "keep-alive":
				return true
			}
		}
	}
	return minor >= 1 // RFC 9112 §9.3
}

// KeepsAlive reports whether the client stays for another request.
func (h *Head) KeepsAlive() bool { return keepsAlive(h.Minor, h.Fields) }
