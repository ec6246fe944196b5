package gssapi

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/go-krb5/krb5/types"
)

// The usage numbers of RFC 4121 §2 for wrapped messages, sealed or not.
const (
	usageAcceptorSeal  = 22
	usageInitiatorSeal = 24
)

// headerLen is that of a token of RFC 4121 §4.2.6.2.
const headerLen = 16

// The flags of a token.
const (
	flagSentByAcceptor byte = 1 << iota
	flagSealed
	flagAcceptorSubkey
)

// Errors of a context's messages.
var (
	errToken    = errors.New("malformed token")
	errSequence = errors.New("a token out of sequence")
)

// Context protects the messages of one connection, either way. Wrap and
// Unwrap may be called at the same time, and each by several goroutines.
type Context struct {
	initiator bool // whose end this is: true in tests' clients alone

	out   sync.Mutex
	wrap  *directional
	next  uint64
	in    sync.Mutex
	open  *directional
	want  uint64
	loose bool   // datagrams may be lost, and overtake each other
	seen  uint64 // the last 64 of those, the newest in bit 0
}

// NewContext makes the end of a context whose messages are protected by key.
// sends and expects are the two first sequence numbers.
func NewContext(key types.EncryptionKey, initiator bool, sends, expects uint64) (*Context, error) {
	own, other := uint32(usageAcceptorSeal), uint32(usageInitiatorSeal)
	if initiator {
		own, other = other, own
	}
	wrap, err := newDirectional(key, own)
	if err != nil {
		return nil, err
	}
	open, err := newDirectional(key, other)
	if err != nil {
		return nil, err
	}
	return &Context{initiator: initiator, wrap: wrap, next: sends, open: open, want: expects}, nil
}

// Overhead is how many bytes a token has more than its message.
func (c *Context) Overhead(seal bool) int {
	if seal {
		return headerLen + block + headerLen + c.wrap.tag
	}
	return headerLen + c.wrap.tag
}

// Wrap appends the token of a message to dst. seal encrypts it; otherwise it
// is protected against changes alone.
func (c *Context) Wrap(dst, message []byte, seal bool) []byte {
	c.out.Lock()
	defer c.out.Unlock()
	var header [headerLen]byte
	header[0], header[1], header[3] = 5, 4, 0xff
	if !c.initiator {
		header[2] = flagSentByAcceptor
	}
	binary.BigEndian.PutUint64(header[8:], c.next)
	c.next++
	dst = slices.Grow(dst, len(message)+c.Overhead(seal)+block)
	start := len(dst)
	if seal {
		header[2] |= flagSealed
		dst = append(dst, header[:]...)
		dst = append(dst, zeroIV[:]...) // the confounder's place
		dst = append(dst, message...)
		dst = append(dst, header[:]...)
		sealed := c.wrap.seal(dst[start+headerLen:])
		return dst[:start+headerLen+len(sealed)]
	}
	sum := c.wrap.check(message, header[:])
	binary.BigEndian.PutUint16(header[4:], uint16(c.wrap.tag)) // EC
	dst = append(dst, header[:]...)
	dst = append(dst, message...)
	return append(dst, sum...)
}

// Unwrap returns the message of a token, which it decrypts in place, and
// whether it was sealed. Anything but the next token is an error.
func (c *Context) Unwrap(token []byte) (message []byte, sealed bool, err error) {
	c.in.Lock()
	defer c.in.Unlock()
	if len(token) < headerLen || token[0] != 5 || token[1] != 4 || token[3] != 0xff {
		return nil, false, errToken
	}
	header, body := token[:headerLen], token[headerLen:]
	flags := header[2]
	if (flags&flagSentByAcceptor != 0) != c.initiator || flags&^(flagSentByAcceptor|flagSealed) != 0 {
		// A token of our own, sent back to us, or of a subkey that we never gave.
		return nil, false, errToken
	}
	sealed = flags&flagSealed != 0
	extra, rrc := int(binary.BigEndian.Uint16(header[4:])), int(binary.BigEndian.Uint16(header[6:]))
	sequence := binary.BigEndian.Uint64(header[8:])
	unrotate(body, rrc)
	if sealed {
		message, err = c.unseal(header, body, extra)
	} else {
		message, err = c.verify(header, body, extra)
	}
	if err == nil {
		err = c.take(sequence)
	}
	if err != nil {
		return nil, sealed, err
	}
	return message, sealed, nil
}

// unseal decrypts a body. What it ends with is the header once more, with a
// rotation of zero, behind extra bytes of filler.
func (c *Context) unseal(header, body []byte, extra int) ([]byte, error) {
	text, err := c.open.open(body)
	if err != nil {
		return nil, err
	}
	n := len(text) - headerLen - extra
	if n < 0 {
		return nil, errToken
	}
	var want [headerLen]byte
	copy(want[:], header)
	want[6], want[7] = 0, 0
	if subtle.ConstantTimeCompare(text[len(text)-headerLen:], want[:]) != 1 {
		return nil, errIntegrity
	}
	return text[:n], nil
}

// verify checks a body that is not sealed: the message, and extra bytes of
// checksum.
func (c *Context) verify(header, body []byte, extra int) ([]byte, error) {
	n := len(body) - c.open.tag
	if n < 0 || extra != c.open.tag {
		return nil, errToken
	}
	var plain [headerLen]byte
	copy(plain[:], header)
	clear(plain[4:8])
	if subtle.ConstantTimeCompare(c.open.check(body[:n], plain[:]), body[n:]) != 1 {
		return nil, errIntegrity
	}
	return body[:n], nil
}

// unrotate undoes a rotation to the right (RFC 4121 §4.2.5): Heimdal sends 12
// and 28.
func unrotate(body []byte, rrc int) {
	if len(body) == 0 {
		return
	}
	if rrc %= len(body); rrc == 0 {
		return
	}
	slices.Reverse(body[:rrc])
	slices.Reverse(body[rrc:])
	slices.Reverse(body)
}

// take checks a sequence number, once the token is known to be the peer's.
func (c *Context) take(sequence uint64) error {
	if !c.loose {
		if sequence != c.want {
			return fmt.Errorf("%w: %d instead of %d", errSequence, sequence, c.want)
		}
		c.want++
		return nil
	}
	// c.want is one above the newest.
	if ahead := int64(sequence - c.want); ahead >= 0 {
		if ahead >= 63 {
			c.seen = 1
		} else {
			c.seen = c.seen<<(ahead+1) | 1
		}
		c.want = sequence + 1
		return nil
	}
	behind := c.want - 1 - sequence
	if behind >= 64 || c.seen&(1<<behind) != 0 {
		return errSequence
	}
	c.seen |= 1 << behind
	return nil
}

// Datagrams lets messages be lost and overtake each other from here on, as
// datagrams do: each is still taken once, and those that are more than 64
// behind are not.
func (c *Context) Datagrams() {
	c.in.Lock()
	defer c.in.Unlock()
	if !c.loose {
		// What came on the connection is behind us: it is not taken again.
		c.loose, c.seen = true, ^uint64(0)
	}
}
