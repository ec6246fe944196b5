package dial

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"cleversocks/conn/wire"
	"cleversocks/resolver"
)

// TestNAT64 reaches an IPv4 literal from a host that has IPv6 alone, whatever
// the length of the network's prefix, and asks for none elsewhere. What the
// rules judged is the literal.
func TestNAT64(t *testing.T) {
	for name, tt := range map[string]struct {
		ip      string
		answer  string // for ipv4only.arpa
		hasIPv6 bool
		want    string // where it connects in the end; "" fails
	}{
		"the well-known prefix": {"198.51.101.7", "64:ff9b::192.0.0.170", true, "64:ff9b::198.51.101.7"},
		"of /96":                {"198.51.101.7", "2001:db8:1:2:3:4:c000:ab", true, "2001:db8:1:2:3:4:c633:6507"},
		"of /64":                {"198.51.101.7", "2001:db8:1:2:c0:0:aa00:0", true, "2001:db8:1:2:c6:3365:700:0"},
		"of /32":                {"198.51.101.7", "2001:db8:c000:aa::", true, "2001:db8:c633:6507::"},
		"no translator":         {"198.51.101.7", "2001:db8::1", true, ""},
		"no answer":             {"198.51.101.7", "", true, ""},
		"no IPv6":               {"198.51.101.7", "64:ff9b::192.0.0.170", false, ""},
		"a private address":     {"10.0.0.1", "64:ff9b::192.0.0.170", true, ""},
		"loopback":              {"127.0.0.1", "64:ff9b::192.0.0.170", true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			d := New(Options{Lookup: func(_ context.Context, name string, family resolver.Family) ([]netip.Addr, error) {
				asked++
				if name != "ipv4only.arpa" || family != resolver.IPv6 || tt.answer == "" {
					return nil, resolver.ErrNotFound
				}
				return addrs(tt.answer), nil
			}})
			d.source = func(netip.Addr, Egress) netip.Addr {
				if tt.hasIPv6 {
					return netip.MustParseAddr("2001:db8::2")
				}
				return netip.Addr{}
			}
			reached := ""
			d.connect = func(_ context.Context, to netip.AddrPort, _ Egress) (*net.TCPConn, error) {
				if to.Addr().Is4() {
					return nil, syscall.ENETUNREACH
				}
				reached = to.Addr().String()
				return new(net.TCPConn), nil
			}
			var judged []netip.Addr
			_, err := d.Dial(t.Context(), Request{
				Dest:  wire.Addr{IP: netip.MustParseAddr(tt.ip), Port: 80},
				Judge: func(ip netip.Addr) error { judged = append(judged, ip); return nil },
			})
			want := tt.want
			if want != "" {
				want = netip.MustParseAddr(want).String()
			}
			if reached != want || (err == nil) != (want != "") {
				t.Errorf("reached %q, %v, want %q", reached, err, want)
			}
			if len(judged) != 1 || judged[0].String() != tt.ip {
				t.Errorf("judged %v", judged)
			}
			if !tt.hasIPv6 && asked > 0 {
				t.Error("asked for a translator without IPv6")
			}
		})
	}
}
