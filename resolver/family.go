package resolver

import (
	"net/netip"

	"github.com/miekg/dns"
)

// Family is an address family, in the number that people call it by.
type Family uint8

// The address families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf is the family of an address; an IPv4-mapped one counts as IPv4.
func FamilyOf(a netip.Addr) Family {
	if a.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

// String is the family's name in settings, logs and metrics.
func (f Family) String() string {
	if f == IPv6 {
		return "ipv6"
	}
	return "ipv4"
}

// qtype is the record type that holds the family's addresses.
func (f Family) qtype() uint16 {
	if f == IPv6 {
		return dns.TypeAAAA
	}
	return dns.TypeA
}
