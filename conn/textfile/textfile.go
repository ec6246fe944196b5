// Package textfile reads the text files that operators write, on whatever
// editor they have: a byte order mark at the front means nothing and is
// dropped, and UTF-16 is called by its name, with a mark or without, instead of
// being taken for garbage.
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

// sample is how many bytes at the front tell UTF-16 without a mark.
const sample = 256

// NewReader reads r without its byte order mark. Its error is ErrUTF16 where
// r begins like UTF-16, and r's own otherwise.
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
		head := make([]byte, sample)
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
// Text that is UTF-16 without a mark is known by its zero bytes.
func Trim(text []byte) ([]byte, error) {
	for _, mark := range utf16Marks {
		if bytes.HasPrefix(text, mark) {
			return nil, ErrUTF16
		}
	}
	if hasUnits16(text[:min(len(text), sample)]) {
		return nil, ErrUTF16
	}
	return bytes.TrimPrefix(text, utf8Mark), nil
}

// hasUnits16 reports text whose every other byte is zero here and there, as is
// one of the two bytes of each letter, digit, space and sign of ASCII in UTF-16,
// and no byte between them. A secret of random bytes has few zeros, and on both
// sides.
func hasUnits16(text []byte) bool {
	var zeros [2]int
	for i, c := range text {
		if c == 0 {
			zeros[i%2]++
		}
	}
	most := max(zeros[0], zeros[1])
	return most >= 2 && most >= min(4, len(text)/2) && 8*most >= len(text) && min(zeros[0], zeros[1]) == 0
}

// Wrap is a file whose reads are NewReader's. Closing it closes f.
func Wrap(f io.ReadCloser) io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{NewReader(f), f}
}
