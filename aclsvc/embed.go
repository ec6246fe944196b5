package aclsvc

import (
	"fmt"
	"net/netip"
)

// embedding is a range of IPv6 addresses whose packets end up at the IPv4
// address that they carry.
type embedding struct {
	prefix   netip.Prefix
	bits     [4]uint8 // where each of the four bytes is
	inverted bool     // each of their bits is
}

// wellKnown are the embeddings of every network: NAT64 (RFC 6052 §2.1), 6to4
// (RFC 3056 §2), Teredo (RFC 4380 §4), SIIT's translated form (RFC 2765 §2.1)
// and IPv4-compatible addresses (RFC 4291 §2.5.5.1). IPv4-mapped ones are
// unmapped before.
func wellKnown() []embedding {
	return []embedding{
		rfc6052(netip.MustParsePrefix("64:ff9b::/96")),
		{prefix: netip.MustParsePrefix("2002::/16"), bits: [4]uint8{2, 3, 4, 5}},
		{prefix: netip.MustParsePrefix("2001::/32"), bits: [4]uint8{12, 13, 14, 15}, inverted: true},
		rfc6052(netip.MustParsePrefix("::ffff:0:0:0/96")),
		rfc6052(netip.MustParsePrefix("::/96")),
	}
}

// rfc6052 places the bytes as the table of RFC 6052 §2.2 does: behind the
// prefix, stepping over the eighth byte.
func rfc6052(p netip.Prefix) embedding {
	e := embedding{prefix: p}
	at := uint8(p.Bits() / 8)
	for i := range e.bits {
		if at == 8 {
			at++
		}
		e.bits[i] = at
		at++
	}
	return e
}

// embeddings are the configured NAT64 prefixes, longest first, then the
// well-known ones.
func embeddings(nat64 []netip.Prefix) ([]embedding, error) {
	var out []embedding
	for _, length := range []int{96, 64, 56, 48, 40, 32} {
		for _, p := range nat64 {
			if p.Bits() == length && p.Addr().Is6() {
				out = append(out, rfc6052(p.Masked()))
			}
		}
	}
	if len(out) != len(nat64) {
		return nil, fmt.Errorf("nat64: %v: a NAT64 prefix is IPv6 with a length of 32, 40, 48, 56, 64 or 96 (RFC 6052 §2.2)", nat64)
	}
	return append(out, wellKnown()...), nil
}

// unwrap is the IPv4 address that addr carries and the length of the prefix
// that says so, or addr itself and 0. addr is unmapped.
func (p *Policy) unwrap(addr netip.Addr) (netip.Addr, int) {
	if addr.Is4() || addr.IsUnspecified() || addr.IsLoopback() {
		return addr, 0 // :: and ::1 are within ::/96, and themselves
	}
	for i := range p.embeddings {
		e := &p.embeddings[i]
		if !e.prefix.Contains(addr) {
			continue
		}
		b := addr.As16()
		v4 := [4]byte{b[e.bits[0]], b[e.bits[1]], b[e.bits[2]], b[e.bits[3]]}
		if e.inverted {
			for i := range v4 {
				v4[i] = ^v4[i]
			}
		}
		return netip.AddrFrom4(v4), e.prefix.Bits()
	}
	if isISATAP(addr) {
		b := addr.As16()
		return netip.AddrFrom4([4]byte(b[12:])), isatapBits
	}
	return addr, 0
}

// isatapBits is the part of an ISATAP address that says that it is one: any
// /64, and half of the interface identifier.
const isatapBits = 96

// isISATAP reports whether the interface identifier is ISATAP's, which any
// prefix may be in front of (RFC 5214 §6.1): 0000:5efe or 0200:5efe, and an
// IPv4 address.
func isISATAP(addr netip.Addr) bool {
	b := addr.As16()
	return b[8]&^0x02 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe
}
