package gssapi

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// Bounds of what is read before anybody is authenticated.
const (
	maxToken = 65535 // RFC 1961 §3 has 16 bits
)

var (
	// oidKerberos is RFC 4121's mechanism, and oidMicrosoft the number that
	// Windows 2000 had for it and that browsers still send first.
	oidKerberos  = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02}
	oidMicrosoft = []byte{0x2a, 0x86, 0x48, 0x82, 0xf7, 0x12, 0x01, 0x02, 0x02}
	oidSPNEGO    = []byte{0x2b, 0x06, 0x01, 0x05, 0x05, 0x02}
)

// What is wrong with a token at first sight: it is none, or another mechanism's.
var (
	errMalformed = errors.New("malformed token")
	errMechanism = errors.New("the mechanism is not Kerberos")
)

// element takes a DER element off b: its tag, its content, and what follows.
func element(b []byte) (tag byte, content, rest []byte, err error) {
	if len(b) < 2 || b[0]&0x1f == 0x1f {
		return 0, nil, nil, errMalformed
	}
	tag, n := b[0], int(b[1])
	b = b[2:]
	if n >= 0x80 {
		size := n & 0x7f
		if size == 0 || size > 3 || len(b) < size {
			return 0, nil, nil, errMalformed
		}
		n = 0
		for _, c := range b[:size] {
			n = n<<8 | int(c)
		}
		b = b[size:]
	}
	if n > len(b) {
		return 0, nil, nil, errMalformed
	}
	return tag, b[:n], b[n:], nil
}

// inside is the content of the one element that b is, which has that tag.
func inside(tag byte, b []byte) ([]byte, error) {
	got, content, rest, err := element(b)
	if err != nil || got != tag || len(rest) > 0 {
		return nil, errMalformed
	}
	return content, nil
}

// der is an element with that tag.
func der(tag byte, parts ...[]byte) []byte {
	content := bytes.Join(parts, nil)
	out := []byte{tag}
	switch n := len(content); {
	case n < 0x80:
		out = append(out, byte(n))
	case n < 0x100:
		out = append(out, 0x81, byte(n))
	case n < 0x10000:
		out = append(out, 0x82, byte(n>>8), byte(n))
	default:
		out = append(out, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	return append(out, content...)
}

// derUint is an INTEGER.
func derUint(v uint64) []byte {
	b := bytes.TrimLeft(binary.BigEndian.AppendUint64(nil, v), "\x00")
	if len(b) == 0 || b[0]&0x80 != 0 {
		b = append([]byte{0}, b...)
	}
	return der(2, b)
}

// The ids of Kerberos's tokens, RFC 4121 §4.1.
var (
	idAPReq = []byte{1, 0}
	idAPRep = []byte{2, 0}
)

// frame is the generic token of RFC 2743 §3.1.
func frame(oid []byte, inner ...[]byte) []byte {
	return der(0x60, append([][]byte{der(6, oid)}, inner...)...)
}

// unframe takes the generic token apart.
func unframe(token []byte) (oid, inner []byte, err error) {
	content, err := inside(0x60, token)
	if err != nil {
		return nil, nil, err
	}
	tag, oid, inner, err := element(content)
	if err != nil || tag != 6 {
		return nil, nil, errMalformed
	}
	return oid, inner, nil
}

// apReqOf is the AP-REQ in an initiator's first token.
func apReqOf(token []byte) ([]byte, error) {
	oid, inner, err := unframe(token)
	if err != nil {
		return nil, err
	}
	if !isKerberos(oid) {
		return nil, errMechanism
	}
	request, ok := bytes.CutPrefix(inner, idAPReq)
	if !ok {
		return nil, errMalformed
	}
	return request, nil
}

// The flags that an initiator asks for, RFC 4121 §4.1.1.1.
const (
	flagMutual = 1 << 1
)

// checksum8003 is the authenticator's "checksum": channel bindings and flags.
func checksum8003(b []byte) (flags uint32, err error) {
	if len(b) < 24 || binary.LittleEndian.Uint32(b) != 16 {
		return 0, errMalformed
	}
	return binary.LittleEndian.Uint32(b[20:]), nil
}

// negotiation is what a client's first token of SPNEGO holds, RFC 4178 §4.2.1.
type negotiation struct {
	token    []byte // the mechanism's own
	oid      []byte // as the client names it
	wrapped  bool   // false: a bare Kerberos token, as some clients send
	kerberos bool   // the token is Kerberos's, and not NTLM's or of nothing
}

// parseNegotiate reads the token of an HTTP Negotiate header.
func parseNegotiate(token []byte) (n negotiation, err error) {
	oid, inner, err := unframe(token)
	if err != nil {
		return n, err
	}
	if !bytes.Equal(oid, oidSPNEGO) {
		return negotiation{token: token, oid: oid, kerberos: isKerberos(oid)}, nil
	}
	n.wrapped = true
	list, err := inside(0xa0, inner)
	if err != nil {
		return n, err
	}
	if list, err = inside(0x30, list); err != nil {
		return n, err
	}
	for len(list) > 0 {
		tag, content, rest, err := element(list)
		if err != nil {
			return n, err
		}
		list = rest
		switch tag {
		case 0xa0:
			if n.oid, err = kerberosAmong(content); err != nil {
				return n, err
			}
		case 0xa2:
			if n.token, err = inside(4, content); err != nil {
				return n, err
			}
		}
	}
	n.kerberos = n.oid != nil && beginsKerberos(n.token)
	return n, nil
}

// beginsKerberos reports whether a mechanism's token may be of Kerberos. A
// client names the mechanisms in its order, and its token is of the first: a
// Windows without a ticket puts NTLM there, and Kerberos behind it.
func beginsKerberos(token []byte) bool {
	tag, content, _, err := element(token)
	if err != nil {
		return len(token) > 0 && token[0] == 0x60 // damaged, and not another's
	}
	_, oid, _, err := element(content)
	return tag == 0x60 && (err != nil || isKerberos(oid))
}

// isKerberos reports whether a mechanism is Kerberos, under either number.
func isKerberos(oid []byte) bool {
	return bytes.Equal(oid, oidKerberos) || bytes.Equal(oid, oidMicrosoft)
}

// kerberosAmong is the first number of Kerberos in a list of mechanisms.
func kerberosAmong(types []byte) ([]byte, error) {
	list, err := inside(0x30, types)
	if err != nil {
		return nil, err
	}
	for len(list) > 0 {
		tag, oid, rest, err := element(list)
		if err != nil || tag != 6 {
			return nil, errMalformed
		}
		if isKerberos(oid) {
			return oid, nil
		}
		list = rest
	}
	return nil, nil
}

// negotiated is the answer to a negotiation that has succeeded.
func (n *negotiation) negotiated(reply []byte) []byte {
	if !n.wrapped {
		return reply
	}
	parts := [][]byte{
		der(0xa0, der(0x0a, []byte{0})), // accept-completed
		der(0xa1, der(6, n.oid)),
	}
	if len(reply) > 0 {
		parts = append(parts, der(0xa2, der(4, reply)))
	}
	return der(0xa1, der(0x30, parts...))
}
