package wire

import "net/netip"

// MaxUDPHeader is the longest header of RFC 1928 §7: reserved bytes, fragment
// number and an address with a name of 255 bytes.
const MaxUDPHeader = 3 + 1 + 1 + 255 + 2

// MaxUDPReplyHeader is the longest header that carries an IP address, which
// is what a relay's replies do.
const MaxUDPReplyHeader = 3 + 1 + 16 + 2

// UDPHeader is the header before each datagram between client and relay (RFC
// 1928 §7). Dest aliases the datagram.
type UDPHeader struct {
	// Frag is 0 for a whole datagram, else the fragment's position, with the
	// high bit set on the last one.
	Frag byte
	Dest RawAddr
}

// ParseUDPHeader reads a datagram's header and says where its payload starts.
// It never allocates. The two reserved bytes are not looked at: clients
// leave rubbish there and nothing depends on them. The error is ErrShort or
// ErrAddressType.
func ParseUDPHeader(b []byte) (h UDPHeader, n int, err error) {
	if len(b) < 3 {
		return UDPHeader{}, 0, ErrShort
	}
	dest, n, err := SplitSOCKS5Addr(b[3:])
	if err != nil {
		return UDPHeader{}, 0, err
	}
	return UDPHeader{Frag: b[2], Dest: dest}, 3 + n, nil
}

// AppendUDPHeader appends the header of a whole datagram for dest, or from
// it. The only error is ErrLongName; b is then returned as it was.
func AppendUDPHeader(b []byte, dest Addr) ([]byte, error) {
	out, err := AppendSOCKS5Addr(append(b, 0, 0, 0), dest)
	if err != nil {
		return b, err
	}
	return out, nil
}

// AppendUDPReplyHeader is AppendUDPHeader for an address; it never allocates
// when b has room for MaxUDPReplyHeader more bytes.
func AppendUDPReplyHeader(b []byte, from netip.AddrPort) []byte {
	return AppendSOCKS5AddrPort(append(b, 0, 0, 0), from)
}
