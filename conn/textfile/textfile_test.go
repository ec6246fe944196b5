package textfile

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

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
	for _, in := range []string{"\xff\xfea\x00", "\xfe\xff\x00a", "\xff\xfe"} {
		if _, err := io.ReadAll(NewReader(strings.NewReader(in))); !errors.Is(err, ErrUTF16) {
			t.Errorf("%q: %v", in, err)
		}
	}
	broken := errors.New("disk")
	if _, err := io.ReadAll(NewReader(iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}
