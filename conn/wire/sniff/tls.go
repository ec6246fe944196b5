package sniff

import (
	"encoding/binary"

	"golang.org/x/crypto/cryptobyte"
)

const (
	recordHandshake = 22 // RFC 8446 §5.1
	recordHeader    = 5
	maxRecord       = 1 << 14

	messageClientHello = 1 // §4
	messageHeader      = 4

	extensionServerName  = 0      // RFC 6066 §3
	extensionEncrypted   = 0xfe0d // RFC 9849 §5
	serverNameIsHostName = 0
)

// clientHello reads a ClientHello. Clients may spread it over many records, a
// byte in each, and some do to get past those who look.
func clientHello(b []byte) (Words, error) {
	message, more := handshakeBytes(b)
	if more == nil {
		return Words{}, nil // it begins like a record, and no server of TLS takes it for one
	}
	words := Words{Kind: TLS}
	if len(message) < messageHeader {
		return words, more
	}
	if message[0] != messageClientHello {
		return words, ErrMalformed
	}
	size := messageHeader + int(message[1])<<16 + int(message[2])<<8 + int(message[3])
	switch {
	case size > Most:
		return words, ErrTooLarge
	case len(message) < size:
		return words, more
	}
	return words, words.readHello(message[messageHeader:size])
}

// handshakeBytes are the contents of the handshake records in b, and what is
// wrong with a message that does not end there: ErrShort where another record may
// come, ErrMalformed where none of a handshake does. nil: the first one is no
// record of TLS.
func handshakeBytes(b []byte) (message []byte, more error) {
	for first := true; len(b) > 0; first = false {
		if !isHandshake(b) {
			if first {
				return nil, nil
			}
			return message, ErrMalformed
		}
		if len(b) < recordHeader {
			break
		}
		size := min(int(binary.BigEndian.Uint16(b[3:])), len(b)-recordHeader)
		message = append(message, b[recordHeader:recordHeader+size]...)
		b = b[recordHeader+size:]
	}
	return message, ErrShort
}

// isHandshake reports whether b begins as a handshake's record does (RFC 8446
// §5.1), which is never empty.
func isHandshake(b []byte) bool {
	if b[0] != recordHandshake || len(b) > 1 && b[1] != 3 {
		return false
	}
	if len(b) < recordHeader {
		return true
	}
	size := binary.BigEndian.Uint16(b[3:])
	return size > 0 && size <= maxRecord
}

// readHello reads the body of a ClientHello (RFC 8446 §4.1.2).
func (w *Words) readHello(body []byte) error {
	s := cryptobyte.String(body)
	var session, suites, compressions, extensions cryptobyte.String
	if !s.Skip(2+32) || !s.ReadUint8LengthPrefixed(&session) || !s.ReadUint16LengthPrefixed(&suites) || !s.ReadUint8LengthPrefixed(&compressions) {
		return ErrMalformed
	}
	if s.Empty() {
		return nil // TLS 1.2 without extensions
	}
	if !s.ReadUint16LengthPrefixed(&extensions) || !s.Empty() {
		return ErrMalformed
	}
	hasName := false
	for !extensions.Empty() {
		var kind uint16
		var data cryptobyte.String
		if !extensions.ReadUint16(&kind) || !extensions.ReadUint16LengthPrefixed(&data) {
			return ErrMalformed
		}
		switch kind {
		case extensionServerName:
			if hasName {
				return ErrMalformed // RFC 8446 §4.2: one of a kind, or who knows which counts
			}
			hasName = true
			if err := w.readName(data); err != nil {
				return err
			}
		case extensionEncrypted:
			w.Encrypted = true
		}
	}
	return nil
}

// readName reads the list of names, which has one of a kind (RFC 6066 §3).
func (w *Words) readName(data cryptobyte.String) error {
	var list cryptobyte.String
	if !data.ReadUint16LengthPrefixed(&list) || !data.Empty() {
		return ErrMalformed
	}
	seen := false
	for !list.Empty() {
		var kind uint8
		var name cryptobyte.String
		if !list.ReadUint8(&kind) || !list.ReadUint16LengthPrefixed(&name) {
			return ErrMalformed
		}
		if kind != serverNameIsHostName {
			continue
		}
		if seen || len(name) == 0 {
			return ErrMalformed
		}
		seen = true
		var err error
		if w.Name, err = named(string(name)); err != nil {
			return err
		}
	}
	return nil
}
