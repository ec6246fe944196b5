package netaddr

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestParsePrefix(t *testing.T) {
	for _, tt := range []struct{ in, want, err string }{
		{"192.0.2.1", "192.0.2.1/32", ""},
		{"192.0.2.77/24", "192.0.2.0/24", ""},
		{"2001:db8::1/32", "2001:db8::/32", ""},
		{"::ffff:192.0.2.1", "192.0.2.1/32", ""},
		{"::ffff:192.0.2.1/120", "192.0.2.0/24", ""},
		{"::ffff:0:0/90", "::ffc0:0:0/90", ""}, // wider than IPv4: it stays what it says
		{"10.0.0/8", "", `"10.0.0/8" is not a CIDR`},
		{"10.0.0", "", `"10.0.0" is not an address`},
		{"fe80::1%eth0", "", "a zone means nothing here"},
		{"", "", `"" is not an address`},
		{strings.Repeat("x", 1000), "", "..."},
	} {
		got, err := ParsePrefix(tt.in)
		switch {
		case tt.err == "":
			if err != nil || got.String() != tt.want {
				t.Errorf("%q: %v, %v, want %s", tt.in, got, err, tt.want)
			}
		case err == nil || !strings.Contains(err.Error(), tt.err) || len(err.Error()) > 200:
			t.Errorf("%q: %v, want an error with %q", tt.in, err, tt.err)
		}
	}
}

func TestSourceKey(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7": "192.0.2.7/32", "::ffff:192.0.2.7": "192.0.2.7/32", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64",
	} {
		if got := SourcePrefix(SourceKey(netip.MustParseAddr(in))).String(); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	if got := SourceKey(netip.Addr{}); got.IsValid() {
		t.Errorf("a client without an address counts as %v", got)
	}
}

func TestOf(t *testing.T) {
	for want, a := range map[string]net.Addr{
		"192.0.2.1:80":            &net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 80}, // sixteen bytes long
		"[fe80::1%eth0]:53":       &net.UDPAddr{IP: net.ParseIP("fe80::1"), Port: 53, Zone: "eth0"},
		"invalid AddrPort":        &net.UnixAddr{Name: "/run/x"},
		netip.AddrPort{}.String(): nil,
	} {
		if got := Of(a).String(); got != want {
			t.Errorf("%v: %s, want %s", a, got, want)
		}
	}
	if got := PlainPort(netip.MustParseAddrPort("[::ffff:192.0.2.1%eth0]:7")).String(); got != "192.0.2.1:7" {
		t.Error(got)
	}
}

func TestSplitHostPort(t *testing.T) {
	for _, tt := range []struct {
		in, host string
		port     uint16
		err      string
	}{
		{"example.org:443", "example.org", 443, ""},
		{"[2001:db8::1]:0", "2001:db8::1", 0, ""},
		{"example.org", "", 0, "is not HOST:PORT"},
		{"example.org:https", "example.org", 0, `port "https" is not a number`},
		{"example.org:65536", "example.org", 0, "from 0 to 65535"},
		{"example.org:+80", "example.org", 0, "from 0 to 65535"},
		{"example.org:", "example.org", 0, `port ""`},
	} {
		host, port, err := SplitHostPort(tt.in)
		if host != tt.host || port != tt.port || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%q: %q, %d, %v", tt.in, host, port, err)
		}
	}
}

func TestPortRange(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want PortRange
		text string // of it, or what the error contains
		ok   bool
	}{
		{"40000", PortRange{40000, 40000}, "40000", true},
		{"40000-40999", PortRange{40000, 40999}, "40000-40999", true},
		{"40000 - 40999", PortRange{40000, 40999}, "40000-40999", true},
		{"0-65535", PortRange{0, 65535}, "0-65535", true},
		{"0", PortRange{}, "0", true},
		{"5-4", PortRange{}, "ends before it begins", false},
		{"", PortRange{}, "neither a port", false},
		{"5-", PortRange{}, "neither a port", false},
		{"x", PortRange{}, "neither a port", false},
		{"70000", PortRange{}, "neither a port", false},
	} {
		got, err := ParsePortRange(tt.in)
		text := got.String()
		if err != nil {
			text = err.Error()
		}
		if got != tt.want || (err == nil) != tt.ok || !strings.Contains(text, tt.text) {
			t.Errorf("ParsePortRange(%q) = %v, %v", tt.in, got, err)
		}
	}
	r := PortRange{80, 90}
	for port, want := range map[uint16]bool{79: false, 80: true, 90: true, 91: false} {
		if r.Contains(port) != want {
			t.Errorf("%v contains %d: %v", r, port, !want)
		}
	}
}

func TestPortRangeYieldsEachPortOnce(t *testing.T) {
	got := slices.Sorted(PortRange{65530, 65535}.All())
	if want := []uint16{65530, 65531, 65532, 65533, 65534, 65535}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := slices.Collect(PortRange{}.All()); !slices.Equal(got, []uint16{0}) {
		t.Errorf("the zero range yields %v", got)
	}
}
