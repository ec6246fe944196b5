package conn

import (
	"testing"
	"unsafe"
)

// TestGuardSessionIsSmall: there is one for each open tunnel, and what few of them
// need has a place of its own. The runtime rounds its size up to one of its classes,
// of which 704 bytes is one and 768 the next.
func TestGuardSessionIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(session{}); n > 704 {
		t.Errorf("a session takes %d bytes", n)
	}
}
