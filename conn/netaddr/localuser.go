package netaddr

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// A client of a unix socket has no address. Where sources are counted, the local
// user that the kernel names is one all the same: a /64 of ff00::/32. No
// connection comes from there, since multicast addresses are nobody's source
// (RFC 4291 §2.7). Lists of addresses never see it.

// localUserPrefix begins a local user's name among sources.
const localUserPrefix = "unix:uid="

// LocalUser is the source that stands for a user of this machine. It is a
// SourceKey.
func LocalUser(uid uint32) netip.Addr {
	key := [16]byte{0: 0xff}
	binary.BigEndian.PutUint32(key[4:], uid)
	return netip.AddrFrom16(key)
}

// UIDOf is the user of this machine that a SourceKey stands for, if it does.
func UIDOf(key netip.Addr) (uid uint32, is bool) {
	if !key.Is6() {
		return 0, false
	}
	bytes := key.As16()
	uid = binary.BigEndian.Uint32(bytes[4:])
	return uid, LocalUser(uid) == key
}

// IsLocalUser reports whether a SourceKey stands for a user of this machine,
// whom other machines do not know by that number.
func IsLocalUser(key netip.Addr) bool {
	_, is := UIDOf(key)
	return is
}

// SourceText is a source as operators read it: "192.0.2.7/32", or
// "unix:uid=1000".
func SourceText(source netip.Prefix) string {
	if uid, is := UIDOf(source.Addr()); is {
		return localUserPrefix + strconv.FormatUint(uint64(uid), 10)
	}
	return source.String()
}

// ParseSource reads what SourceText writes, or an address of the source.
func ParseSource(text string) (netip.Addr, error) {
	if number, isUser := strings.CutPrefix(text, localUserPrefix); isUser {
		uid, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("%q: behind %s there has to be a user id, a number", clip(text), localUserPrefix)
		}
		return LocalUser(uint32(uid)), nil
	}
	address, bits, isRange := strings.Cut(text, "/")
	addr, err := netip.ParseAddr(address)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is neither an IP address nor a range, nor %sNUMBER", clip(text), localUserPrefix)
	}
	if isRange && !isOneSource(addr, bits) {
		return netip.Addr{}, fmt.Errorf("%q is not one source, which is an IPv4 address or an IPv6 /64: a rule of acl.rules can deny other ranges", clip(text))
	}
	return addr.Unmap(), nil
}

// isOneSource reports whether an address with so many bits is one, as it is counted.
func isOneSource(addr netip.Addr, bits string) bool {
	n, err := strconv.Atoi(bits)
	switch {
	case err != nil:
		return false
	case addr.Is4():
		return n == 32
	}
	return n == 128 || n == 64 && addr.Is6() && !addr.Is4In6()
}
