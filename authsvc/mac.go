package authsvc

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"hash"
	"strconv"
	"sync"
)

// mac makes a comparison's time independent of length and content.
func mac(key []byte, parts ...[]byte) []byte {
	s := macState{h: hmac.New(sha256.New, key)}
	sum := s.of(parts)
	return sum[:]
}

// macKey is a random key that never leaves the process, with what makes its MACs
// without allocation.
type macKey struct{ states sync.Pool } // of *macState

// newKey makes a random key.
func newKey() *macKey {
	key := make([]byte, 32)
	rand.Read(key)
	return &macKey{states: sync.Pool{New: func() any { return &macState{h: hmac.New(sha256.New, key)} }}}
}

// mac is that of the parts, under the key.
func (k *macKey) mac(parts ...[]byte) [sha256.Size]byte {
	s := k.states.Get().(*macState)
	defer k.states.Put(s)
	return s.of(parts)
}

// macState makes one MAC after the other. Its arrays are here because what a
// hash.Hash is given escapes.
type macState struct {
	h      hash.Hash
	length [20]byte
	sum    [sha256.Size]byte
}

func (s *macState) of(parts [][]byte) [sha256.Size]byte {
	s.h.Reset()
	for _, p := range parts {
		s.h.Write(append(strconv.AppendInt(s.length[:0], int64(len(p)), 10), 0))
		s.h.Write(p)
	}
	s.h.Sum(s.sum[:0])
	return s.sum
}
