package dial

import (
	crand "crypto/rand"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"cleversocks/conn/wire"
	"cleversocks/e2e/need"
	"cleversocks/resolver"
)

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// option reads a socket option of a connection.
func option(t *testing.T, c *net.TCPConn, level, name int) int {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var value int
	if ctrl := raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), level, name) }); ctrl != nil {
		t.Fatal(ctrl)
	}
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func TestEgressFixed(t *testing.T) {
	for _, tt := range []struct{ listen, source string }{{"127.0.0.1:0", "127.0.0.9/32"}, {"[::1]:0", "::1/128"}} {
		to := listen(t, tt.listen)
		source := prefixes(tt.source)
		c, err := New(Options{}).Dial(t.Context(), Request{Dest: wire.FromAddrPort(to), Egress: Egress{Addresses: source}})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr(); got != source[0].Addr() {
			t.Errorf("left from %s, want %s", got, source[0].Addr())
		}
		if option(t, c, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT) != 1 {
			t.Errorf("%s: IP_BIND_ADDRESS_NO_PORT is not set", tt.source)
		}
		closeIt(t, c)
	}
}

// TestEgressPrefix leaves from addresses of a prefix that no interface has.
func TestEgressPrefix(t *testing.T) {
	to := listen(t, "127.0.0.1:0")
	d := New(Options{Egress: Egress{Addresses: prefixes("127.5.0.0/16")}})
	seen := make(map[netip.Addr]bool)
	for range 8 {
		c, err := d.Dial(t.Context(), Request{Dest: wire.FromAddrPort(to)})
		if err != nil {
			t.Fatal(err)
		}
		source := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr()
		if !netip.MustParsePrefix("127.5.0.0/16").Contains(source) {
			t.Errorf("left from %s", source)
		}
		if option(t, c, unix.SOL_IP, unix.IP_FREEBIND) != 1 {
			t.Error("IP_FREEBIND is not set")
		}
		seen[source] = true
		closeIt(t, c)
	}
	if len(seen) < 2 {
		t.Errorf("eight connections left from %d address", len(seen))
	}
}

func TestEgressOptions(t *testing.T) {
	need.Root(t) // for the mark
	to := listen(t, "127.0.0.1:0")
	d := New(Options{Congestion: "reno", KeepAlive: net.KeepAliveConfig{Enable: true, Count: 7}})
	c, err := d.Dial(t.Context(), Request{Dest: wire.FromAddrPort(to), Egress: Egress{Interface: "lo", Mark: 0x51}})
	if err != nil {
		t.Fatal(err)
	}
	defer closeIt(t, c)
	for _, tt := range []struct {
		name          string
		level, option int
		want          int
	}{
		{"SO_MARK", unix.SOL_SOCKET, unix.SO_MARK, 0x51},
		{"SO_BINDTOIFINDEX", unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, loopbackIndex(t)},
		{"SO_PROTOCOL (no MPTCP)", unix.SOL_SOCKET, unix.SO_PROTOCOL, unix.IPPROTO_TCP},
		{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 0},
		{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 7},
	} {
		if got := option(t, c, tt.level, tt.option); got != tt.want {
			t.Errorf("%s is %d, want %d", tt.name, got, tt.want)
		}
	}
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		if name, err := unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION); err != nil || name != "reno" {
			t.Errorf("congestion control %q, %v", name, err)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

func loopbackIndex(t *testing.T) int {
	t.Helper()
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	return lo.Index
}

// TestEgressRefuses names what is wrong, and never leaves by another way.
func TestEgressRefuses(t *testing.T) {
	to := listen(t, "127.0.0.1:0")
	for _, tt := range []struct {
		name   string
		opts   Options
		egress Egress
		want   error
	}{
		{"no address of the family", Options{}, Egress{Addresses: prefixes("2001:db8::1/128")}, ErrNoUsableAddress},
		{"address not on this host", Options{}, Egress{Addresses: prefixes("203.0.113.77/32")}, syscall.EADDRNOTAVAIL},
		{"no such interface", Options{}, Egress{Interface: "no-such-if0"}, syscall.ENODEV},
		{"no such congestion control", Options{Congestion: "no-such"}, Egress{}, syscall.ENOENT},
	} {
		_, err := New(tt.opts).Dial(t.Context(), Request{Dest: wire.FromAddrPort(to), Egress: tt.egress})
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	d := New(Options{Lookup: lookupTable(map[string][]netip.Addr{"x.test": addrs("127.0.0.1")})})
	_, err := d.Dial(t.Context(), Request{Dest: wire.Addr{Name: "x.test", Port: to.Port()}, Egress: Egress{Addresses: prefixes("::1/128")}})
	if !errors.Is(err, resolver.ErrNotFound) {
		t.Errorf("a name without an address of the family: %v", err)
	}
}

// TestRandomOf stays inside the prefix and off the network's own addresses.
func TestRandomOf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]int{4, 16}).Draw(t, "size")
		addr, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "address"))
		p := netip.PrefixFrom(addr, rapid.IntRange(0, size*8-1).Draw(t, "bits"))
		got := randomOf(p, func(noise []byte) { _, _ = crand.Read(noise) })
		if !p.Contains(got) {
			t.Fatalf("%s is not in %s", got, p)
		}
		if p.Bits() < size*8-1 && got == p.Masked().Addr() {
			t.Fatalf("%s is the network of %s", got, p)
		}
	})
}
