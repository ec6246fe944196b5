// Package sniff reads what the client of a server says first, as far as it names
// the server: the server name of a TLS ClientHello (RFC 6066 §3) and the Host of
// an HTTP request. It reads bytes alone.
//
//	for {
//		words, err := sniff.First(got)
//		if !errors.Is(err, sniff.ErrShort) {
//			break // words.Name, or an error: see there
//		}
//		// read more, unless len(got) is sniff.Most by now
//	}
package sniff

import (
	"errors"
	"net/netip"

	"cleversocks/conn/wire"
)

// Most bounds how many bytes are looked at. Hellos with post-quantum keys are
// under 3 KiB; browsers' heads with cookies under 16.
const Most = 16 << 10

var (
	// ErrShort is a beginning that does not tell yet.
	ErrShort = errors.New("more is needed to tell")
	// ErrMalformed is a ClientHello or a request that two servers may read apart.
	ErrMalformed = errors.New("malformed")
	// ErrTooLarge is one that does not end within Most bytes.
	ErrTooLarge = errors.New("too large to be looked at")
)

// Kind is what the client speaks.
type Kind uint8

// The kinds. Other is whatever has no name to look for.
const (
	Other Kind = iota
	TLS
	HTTP
)

// Words are what the client said first.
type Words struct {
	Kind Kind
	// Name is the server's in the form that rules compare; "" when there is none,
	// or an address stands in its place. Nothing proves it: a client may say what
	// it likes.
	Name string
	// Encrypted says that there is an encrypted hello within (ECH), whose name is
	// another one unless the client only pretends to have one (GREASE): then Name
	// is the one that shows.
	Encrypted bool
}

// First reads the first words: a ClientHello or a request of HTTP/1. An error is
// ErrShort, or else Kind says of what.
func First(b []byte) (Words, error) {
	if len(b) > 0 && b[0] != recordHandshake {
		return bounded(b, request)
	}
	return Hello(b)
}

// Hello is First where requests of HTTP are nothing to look for.
func Hello(b []byte) (Words, error) {
	switch {
	case len(b) == 0:
		return Words{}, ErrShort
	case b[0] != recordHandshake:
		return Words{}, nil
	}
	return bounded(b, clientHello)
}

func bounded(b []byte, read func([]byte) (Words, error)) (Words, error) {
	words, err := read(b)
	if errors.Is(err, ErrShort) && len(b) >= Most {
		err = ErrTooLarge
	}
	return words, err
}

// named is a name as rules compare it; "" for an address.
func named(raw string) (string, error) {
	if _, err := netip.ParseAddr(raw); err == nil {
		return "", nil
	}
	addr, err := wire.ParseHost(raw, 0)
	if err != nil {
		return "", ErrMalformed
	}
	return addr.Name, nil
}
