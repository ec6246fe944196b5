package netaddr

import (
	"math"
	"net/netip"
	"testing"
)

// A local user is a source like others: bans, queues and what is saved of them
// treat the number as they treat the /64 of an IPv6 client, and tell it apart
// from every client that has an address.
func TestLocalUser(t *testing.T) {
	for _, uid := range []uint32{0, 1, 1000, 65534, math.MaxUint32} {
		key := LocalUser(uid)
		if SourceKey(key) != key || !IsLocalUser(key) {
			t.Errorf("%d: %s is no key of a local user", uid, key)
		}
		text := SourceText(SourcePrefix(key))
		if again, err := ParseSource(text); err != nil || again != key {
			t.Errorf("%d: %s comes back as %s, %v", uid, text, again, err)
		}
	}
	if text := SourceText(SourcePrefix(LocalUser(1000))); text != "unix:uid=1000" {
		t.Error(text)
	}
	for _, other := range []string{"192.0.2.7", "2001:db8::", "::", "ff02::1", "ff00::1"} {
		addr := netip.MustParseAddr(other)
		if IsLocalUser(addr) {
			t.Errorf("%s passes for a local user", other)
		}
		if again, err := ParseSource(SourceText(SourcePrefix(SourceKey(addr)))); err != nil || SourceKey(again) != SourceKey(addr) {
			t.Errorf("%s: %s, %v", other, again, err)
		}
	}
	for _, wrong := range []string{"", "unix:uid=", "unix:uid=-1", "unix:uid=4294967296", "unix", "nobody"} {
		if addr, err := ParseSource(wrong); err == nil {
			t.Errorf("%q is %s", wrong, addr)
		}
	}
}

// A ban of 198.51.100.0/24 was taken, and was one of 198.51.100.0: who had asked for the
// range believed it to be out.
func TestParseSourceOfRanges(t *testing.T) {
	for _, one := range []string{"198.51.100.9", "198.51.100.9/32", "::ffff:198.51.100.9", "::ffff:198.51.100.9/128", "2001:db8::9", "2001:db8::/64", "2001:db8::9/128"} {
		if _, err := ParseSource(one); err != nil {
			t.Error(err)
		}
	}
	for _, other := range []string{"198.51.100.0/24", "198.51.100.9/", "198.51.100.9/x", "198.51.100.9/33", "198.51.100.9/64", "2001:db8::/32", "2001:db8::/96", "::ffff:198.51.100.9/64", "::ffff:198.51.100.9/32", "fe80::1%eth0", "/24"} {
		if addr, err := ParseSource(other); err == nil {
			t.Errorf("%q is taken for %s", other, addr)
		}
	}
}
