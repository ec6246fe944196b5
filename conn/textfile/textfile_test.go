package textfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf16"
)

// units16 is text in UTF-16 without a mark.
func units16(text string, order binary.AppendByteOrder) string {
	var out []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		out = order.AppendUint16(out, unit)
	}
	return string(out)
}

// TestMarks: a byte order mark at the front of a users file made the first
// user's name one that nobody can type, and locked that user out in silence.
func TestMarks(t *testing.T) {
	for in, want := range map[string]string{
		"":                              "",
		"a":                             "a",
		"ab":                            "ab",
		"alice:x\n":                     "alice:x\n",
		"\xef\xbb\xbf":                  "",
		"\xef\xbb\xbfalice:x\n":         "alice:x\n",
		"\xef\xbb\xbf\xef\xbb\xbfalice": "\xef\xbb\xbfalice",
		"\xef\xbbalice":                 "\xef\xbbalice",
	} {
		for name, r := range map[string]io.Reader{"whole": strings.NewReader(in), "bytewise": iotest.OneByteReader(strings.NewReader(in))} {
			got, err := io.ReadAll(iotest.OneByteReader(NewReader(r)))
			if err != nil || string(got) != want {
				t.Errorf("%q, %s: %q, %v", in, name, got, err)
			}
		}
	}
	for _, in := range []string{
		"\xff\xfea\x00", "\xfe\xff\x00a", "\xff\xfe",
		// Without a mark, as iconv -t UTF-16LE and Java's writers have it: it was
		// an unknown key or a bad name, with a letter in it that looked right.
		units16("ab", binary.LittleEndian), units16("ab", binary.BigEndian),
		units16("# прокси для всей семьи и для её друзей\n[auth]\n", binary.LittleEndian),
		units16(strings.Repeat("alice:$6$x\r\n", 100), binary.BigEndian),
	} {
		if _, err := io.ReadAll(NewReader(strings.NewReader(in))); !errors.Is(err, ErrUTF16) {
			t.Errorf("%q: %v", in, err)
		}
	}
	// Bytes that are no text, as a secret may be, are nobody's UTF-16.
	random := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		secret := make([]byte, random.IntN(64))
		for i := range secret {
			secret[i] = byte(random.Uint32())
		}
		if bytes.HasPrefix(secret, []byte("\xff\xfe")) || bytes.HasPrefix(secret, []byte("\xfe\xff")) || len(secret) < 8 {
			continue
		}
		if _, err := Trim(secret); err != nil {
			t.Errorf("% x: %v", secret, err)
		}
	}
	broken := errors.New("disk")
	if _, err := io.ReadAll(NewReader(iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}
