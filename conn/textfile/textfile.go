// Package textfile reads the text files that operators write, on whatever
// editor they have: a byte order mark at the front means nothing and is
// dropped, and UTF-16 is called by its name instead of being taken for garbage.
//
//	text, err := io.ReadAll(textfile.NewReader(f))
package textfile

import (
	"bytes"
	"errors"
	"io"
)

// ErrUTF16 is a file in an encoding that nobody can read line by line as bytes.
var ErrUTF16 = errors.New("is UTF-16 text: save it as UTF-8")

// The marks that Unicode §23.8 puts at the front of a file.
var (
	utf8Mark   = []byte("\xef\xbb\xbf")
	utf16Marks = [][]byte{[]byte("\xff\xfe"), []byte("\xfe\xff")}
)

// NewReader reads r without its byte order mark. Its error is ErrUTF16 where
// r begins with the mark of UTF-16, and r's own otherwise.
func NewReader(r io.Reader) io.Reader { return &reader{in: r} }

type reader struct {
	in     io.Reader
	head   []byte // read, and not given out yet
	begun  bool
	failed error
}

// Read drops the mark in front of the first bytes.
func (r *reader) Read(p []byte) (int, error) {
	if !r.begun {
		r.begun = true
		head := make([]byte, len(utf8Mark))
		n, err := io.ReadFull(r.in, head)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF
		}
		r.head, r.failed = Trim(head[:n])
		if r.failed == nil {
			r.failed = err
		}
	}
	if len(r.head) > 0 {
		n := copy(p, r.head)
		r.head = r.head[n:]
		return n, nil
	}
	if r.failed != nil {
		return 0, r.failed
	}
	return r.in.Read(p)
}

// Trim is text without its byte order mark, or nothing and ErrUTF16.
func Trim(text []byte) ([]byte, error) {
	for _, mark := range utf16Marks {
		if bytes.HasPrefix(text, mark) {
			return nil, ErrUTF16
		}
	}
	return bytes.TrimPrefix(text, utf8Mark), nil
}

// Wrap is a file whose reads are NewReader's. Closing it closes f.
func Wrap(f io.ReadCloser) io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{NewReader(f), f}
}
