package conn

import (
	"bytes"
	"crypto/tls"
	"reflect"
	"sync"
	"unsafe"
)

// A tls.Conn keeps the memory of the largest record that it has read, 18 to 36 KiB,
// and that of its handshake, for as long as it lives: more than all else that an idle
// tunnel holds. Package crypto/tls has no way to give it back, so it is taken from the
// fields themselves, which are found by name and type. Where they are others, in
// another version of Go, nothing is taken, and a test of ours fails.

// restAbove is how much memory a tls.Conn may keep while it waits, in bytes. Below it
// are tunnels of small messages, which would only allocate it anew for each.
const restAbove = 4 << 10

// Where the fields are in a tls.Conn; 0: not there. None is the first one.
var (
	rawInputAt = fieldOf[bytes.Buffer]("rawInput") // what was read and is no whole record yet
	inputAt    = fieldOf[bytes.Reader]("input")    // the record that is being read, in rawInput's memory
	handAt     = fieldOf[bytes.Buffer]("hand")     // of handshakes
)

func fieldOf[T any](name string) uintptr {
	f, ok := reflect.TypeFor[tls.Conn]().FieldByName(name)
	if !ok || f.Type != reflect.TypeFor[T]() {
		return 0
	}
	return f.Offset
}

// canRest says whether all of the fields are there.
func canRest() bool { return rawInputAt > 0 && inputAt > 0 && handAt > 0 }

// inputs are memory for records that is in nobody's use.
var inputs = sync.Pool{New: func() any { return new([]byte) }}

// memory is what a tls.Conn keeps. It is for the goroutine that reads: nobody else
// touches the fields.
type memory struct {
	rawInput, hand *bytes.Buffer
	input          *bytes.Reader
}

func memoryOf(c *tls.Conn) memory {
	at := unsafe.Pointer(c) //nolint:gosec // the types of the fields were compared
	return memory{
		rawInput: (*bytes.Buffer)(unsafe.Add(at, rawInputAt)),
		hand:     (*bytes.Buffer)(unsafe.Add(at, handAt)),
		input:    (*bytes.Reader)(unsafe.Add(at, inputAt)),
	}
}

// isInUse reports whether something is in it that was not read yet.
func (m memory) isInUse() bool { return m.rawInput.Len() > 0 || m.input.Len() > 0 || m.hand.Len() > 0 }

// isLarge reports whether a conn should not wait with it.
func (m memory) isLarge() bool { return m.rawInput.Cap() > restAbove }

// giveBack takes it from the conn.
func (m memory) giveBack() {
	if m.isLarge() {
		m.rawInput.Reset() // so that all of it is available
		free := m.rawInput.AvailableBuffer()
		inputs.Put(&free)
	}
	*m.rawInput, *m.hand = bytes.Buffer{}, bytes.Buffer{}
	m.input.Reset(nil)
}

// rest waits for something to read, and has the conn keep nothing meanwhile. It does
// so once, for what the handshake has left, and where that is much. An error is the
// next read's.
func (c *tlsConn) rest() {
	if c.over || !canRest() {
		return
	}
	m := memoryOf(c.Conn)
	if c.rested && !m.isLarge() || m.isInUse() {
		return
	}
	waited := awaitBytes(c.below.Conn, m.giveBack)
	if waited && c.rested { // a conn that has had a large record gets more of them
		*m.rawInput = *bytes.NewBuffer(*inputs.Get().(*[]byte))
	}
	c.rested = true
}
