package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// The address types of RFC 1928 §5.
const (
	socksIPv4 = 0x01
	socksName = 0x03
	socksIPv6 = 0x04
)

var (
	// ErrShort says that the bytes end before what they announce does; more
	// bytes of a stream may complete it, a datagram is malformed.
	ErrShort = errors.New("incomplete message")
	// ErrAddressType says that ATYP is none of RFC 1928 §5 (reply code 08).
	ErrAddressType = errors.New("unknown SOCKS address type")
	// ErrLongName says that a name does not fit the one byte of its length.
	ErrLongName = errors.New("name longer than 255 bytes")
)

// RawAddr is a SOCKS5 address that is split but not yet interpreted. It
// aliases the bytes that it was read from, so that the datagram path can look
// a name up without making a string of it.
type RawAddr struct {
	IP   netip.Addr // as sent, not unmapped; invalid when the address is a name
	Name []byte     // as sent, possibly empty or malformed
	Port uint16
}

// SplitSOCKS5Addr reads ATYP, address and port (RFC 1928 §5) from the front
// of b and says how many bytes they take. It never allocates. The error is
// ErrShort or ErrAddressType, and n is then 0.
func SplitSOCKS5Addr(b []byte) (raw RawAddr, n int, err error) {
	if len(b) == 0 {
		return RawAddr{}, 0, ErrShort
	}
	switch b[0] {
	case socksIPv4:
		if len(b) < 1+4+2 {
			return RawAddr{}, 0, ErrShort
		}
		raw.IP = netip.AddrFrom4([4]byte(b[1:5]))
		n = 5
	case socksIPv6:
		if len(b) < 1+16+2 {
			return RawAddr{}, 0, ErrShort
		}
		raw.IP = netip.AddrFrom16([16]byte(b[1:17]))
		n = 17
	case socksName:
		if len(b) < 2 || len(b) < 2+int(b[1])+2 {
			return RawAddr{}, 0, ErrShort
		}
		n = 2 + int(b[1])
		raw.Name = b[2:n]
	default:
		return RawAddr{}, 0, ErrAddressType
	}
	raw.Port = binary.BigEndian.Uint16(b[n:])
	return raw, n + 2, nil
}

// SOCKS5AddrLen is how many bytes ATYP, address and port take together, told
// from ATYP and the byte behind it; 0 for an unknown address type.
func SOCKS5AddrLen(atyp, next byte) int {
	switch atyp {
	case socksIPv4:
		return 1 + 4 + 2
	case socksIPv6:
		return 1 + 16 + 2
	case socksName:
		return 1 + 1 + int(next) + 2
	}
	return 0
}

// Addr interprets a split address: addresses are unmapped, names normalised
// by ParseHost, with its errors (ErrBadName).
func (r RawAddr) Addr() (Addr, error) {
	if r.IP.IsValid() {
		return Addr{IP: r.IP.Unmap(), Port: r.Port}, nil
	}
	return ParseHost(string(r.Name), r.Port)
}

// ParseSOCKS5Addr reads ATYP, address and port (RFC 1928 §5) from the front
// of b and says how many bytes they take. The error is ErrShort or
// ErrAddressType with n 0, or wraps ErrBadName: then n counts the whole
// address all the same and the Addr has its port alone, so that a caller may
// be lenient (PySocks asks UDP ASSOCIATE for the name "0").
func ParseSOCKS5Addr(b []byte) (addr Addr, n int, err error) {
	raw, n, err := SplitSOCKS5Addr(b)
	if err != nil {
		return Addr{}, 0, err
	}
	addr, err = raw.Addr()
	if err != nil {
		return Addr{Port: raw.Port}, n, err
	}
	return addr, n, nil
}

// AppendSOCKS5Addr appends ATYP, address and port to b. An Addr without a
// host is 0.0.0.0, which is what a failure reply carries. The only error is
// ErrLongName; b is then returned as it was.
func AppendSOCKS5Addr(b []byte, addr Addr) ([]byte, error) {
	if addr.Name == "" {
		return AppendSOCKS5AddrPort(b, addr.AddrPort()), nil
	}
	if len(addr.Name) > 255 {
		return b, fmt.Errorf("%w: %q", ErrLongName, clip(addr.Name))
	}
	b = append(b, socksName, byte(len(addr.Name)))
	b = append(b, addr.Name...)
	return binary.BigEndian.AppendUint16(b, addr.Port), nil
}

// AppendSOCKS5AddrPort is AppendSOCKS5Addr for an IP address: ATYP 1 for IPv4
// (mapped or not) and for an invalid address, else ATYP 4. A zone is dropped.
func AppendSOCKS5AddrPort(b []byte, ap netip.AddrPort) []byte {
	switch ip := ap.Addr(); {
	case !ip.IsValid():
		b = append(b, socksIPv4, 0, 0, 0, 0)
	case ip.Is4() || ip.Is4In6():
		a := ip.As4()
		b = append(append(b, socksIPv4), a[:]...)
	default:
		a := ip.As16()
		b = append(append(b, socksIPv6), a[:]...)
	}
	return binary.BigEndian.AppendUint16(b, ap.Port())
}
