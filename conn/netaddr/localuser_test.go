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
