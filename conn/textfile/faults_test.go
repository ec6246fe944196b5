package textfile

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// TestFaults: a list with many wrong lines was mended one reload after the
// other. A message that names all of them ends somewhere.
func TestFaults(t *testing.T) {
	var f Faults
	if err := f.Err(); err != nil {
		t.Errorf("none: %v", err)
	}
	f.Add(3, io.ErrUnexpectedEOF)
	f.Add(7, errors.New("no colon"))
	if err := f.Err(); err.Error() != "line 3: unexpected EOF; line 7: no colon" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("two: %v", err)
	}
	for i := range 30 {
		f.Add(10+i, errors.New("x"))
	}
	if text := f.Err().Error(); !strings.HasSuffix(text, "line 27: x; and 12 lines more") {
		t.Errorf("many: %s", text)
	}
}
