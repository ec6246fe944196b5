package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"

	"cleversocks/resolver"
)

// A datagram to a name waited for five seconds when the name server never
// answered for AAAA, and again every 30 seconds in the middle of a flow. A
// family that has addresses waits for the other one as long as RFC 8305 says.
func TestResolveWaitsForNoFamily(t *testing.T) {
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	silent := func(ctx context.Context) ([]netip.Addr, error) {
		<-ctx.Done() // which only the look-up's owner ends
		return nil, ctx.Err()
	}
	failing := func(context.Context) ([]netip.Addr, error) { return nil, resolver.ErrServers }
	is := func(addr netip.Addr) func(context.Context) ([]netip.Addr, error) {
		return func(context.Context) ([]netip.Addr, error) { return []netip.Addr{addr}, nil }
	}
	for name, tt := range map[string]struct {
		v4, v6 func(context.Context) ([]netip.Addr, error)
		want   []netip.Addr
		err    error
	}{
		"both":          {is(four), is(six), []netip.Addr{four, six}, nil},
		"AAAA silent":   {is(four), silent, []netip.Addr{four}, nil},
		"A silent":      {silent, is(six), []netip.Addr{six}, nil},
		"AAAA fails":    {is(four), failing, []netip.Addr{four}, nil},
		"both fail":     {failing, failing, nil, resolver.ErrServers},
		"a panic in it": {is(four), func(context.Context) ([]netip.Addr, error) { panic("a defect") }, []netip.Addr{four}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			d := New(Options{Lookup: func(ctx context.Context, _ string, family resolver.Family) ([]netip.Addr, error) {
				if family == resolver.IPv4 {
					return tt.v4(ctx)
				}
				return tt.v6(ctx)
			}})
			got, err := d.Resolve(t.Context(), "a.example", Egress{})
			if !errors.Is(err, tt.err) {
				t.Fatalf("%v, want %v", err, tt.err)
			}
			slices.SortFunc(got, netip.Addr.Compare)
			if !slices.Equal(got, tt.want) {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

// A socket of datagrams is opened again where it was, unless the settings have
// moved: a user who is held to an address must not keep another.
func TestListenUDPWhereItWas(t *testing.T) {
	loopback := netip.MustParsePrefix("127.0.0.1/32")
	d := New(Options{})
	open := func(egress Egress, last netip.AddrPort) netip.AddrPort {
		t.Helper()
		c, err := d.ListenUDP(t.Context(), "udp4", egress, last)
		if err != nil {
			t.Fatal(err)
		}
		defer closeIt(t, c)
		return c.LocalAddr().(*net.UDPAddr).AddrPort()
	}
	free := open(Egress{}, netip.AddrPort{})
	if again := open(Egress{}, free); again != free {
		t.Errorf("was at %v, is at %v", free, again)
	}
	held := Egress{Addresses: []netip.Prefix{loopback}}
	bound := open(held, free)
	if bound.Addr() != loopback.Addr() {
		t.Errorf("held to %v, yet at %v", loopback, bound)
	}
	if again := open(held, bound); again != bound {
		t.Errorf("was at %v, is at %v", bound, again)
	}
	taken, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(bound))
	if err != nil {
		t.Fatal(err)
	}
	defer closeIt(t, taken)
	if other := open(held, bound); other == bound || other.Addr() != bound.Addr() {
		t.Errorf("the port is taken, yet the socket is at %v", other)
	}
}
