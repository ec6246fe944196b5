package dial

import (
	"errors"
	"net/netip"
	"testing"
)

// A peer looks for this host where our connections to it come from: the address of
// the settings, or the one that the system takes for the way to it, but for loopback
// addresses, which are all as good within the host.
func TestFacing(t *testing.T) {
	outside, inside, v6 := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("192.168.0.1"), netip.MustParseAddr("2001:db8::1")
	loopback, first := netip.MustParseAddr("127.0.0.5"), netip.MustParseAddr("127.0.0.1")
	peer, local := netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("127.0.0.9")
	local6 := netip.IPv6Loopback()
	var nobody netip.Addr
	d := New(Options{})
	d.source = func(dst netip.Addr, _ Egress) netip.Addr {
		return map[netip.Addr]netip.Addr{peer: outside, local: first, v6: v6, local6: local6}[dst]
	}
	own := func(prefix string) Egress { return Egress{Addresses: []netip.Prefix{netip.MustParsePrefix(prefix)}} }
	for _, c := range []struct {
		name       string
		peer, here netip.Addr
		egress     Egress
		want       netip.Addr
		refused    bool
	}{
		{"two networks", peer, inside, Egress{}, outside, false},
		{"a client of this host", peer, loopback, Egress{}, outside, false},
		{"all within this host", local, loopback, Egress{}, nobody, false},
		// The port was opened on the loopback address of the client's family, where
		// that peer, which alone may connect, could not come.
		{"all within this host, and another family", local6, loopback, Egress{}, local6, false},
		{"that, the other way", local, local6, Egress{}, first, false},
		{"all within this host, IPv6", local6, local6, Egress{}, nobody, false},
		{"another family", v6, inside, Egress{}, v6, false},
		{"anyone", nobody, inside, Egress{}, nobody, false},
		{"no way to the peer", netip.MustParseAddr("192.0.2.1"), inside, Egress{}, nobody, false},
		{"an address of the settings", peer, inside, own("203.0.113.7/32"), netip.MustParseAddr("203.0.113.7"), false},
		{"that, for anyone", nobody, inside, own("203.0.113.7/32"), netip.MustParseAddr("203.0.113.7"), false},
		{"that, and another family", v6, inside, own("203.0.113.7/32"), nobody, true},
		{"that, and a client of another family", nobody, v6, own("203.0.113.7/32"), nobody, true},
	} {
		at, setUp, err := d.Facing(c.peer, c.here, c.egress)
		if at != c.want || setUp != nil || errors.Is(err, ErrNoUsableAddress) != c.refused {
			t.Errorf("%s: %s, %v", c.name, at, err)
		}
	}
	if _, setUp, err := d.Facing(peer, inside, own("203.0.113.128/25")); setUp == nil || err != nil {
		t.Errorf("a prefix: nothing sets its socket up; %v", err)
	}
}
