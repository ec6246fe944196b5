package wire

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParseSOCKS5Addr(t *testing.T) {
	long := strings.Repeat("a", 255)
	tests := []struct {
		name string
		in   string
		want Addr
		n    int
		err  error
	}{
		{"ipv4", "\x01\x7f\x00\x00\x01\x04\x38rest", Addr{IP: netip.MustParseAddr("127.0.0.1"), Port: 1080}, 7, nil},
		{"ipv6", "\x04" + strings.Repeat("\x00", 15) + "\x01\x00\x35", Addr{IP: netip.IPv6Loopback(), Port: 53}, 19, nil},
		{"mapped", "\x04" + strings.Repeat("\x00", 10) + "\xff\xff\x0a\x00\x00\x01\x00\x35", Addr{IP: netip.MustParseAddr("10.0.0.1"), Port: 53}, 19, nil},
		{"name", "\x03\x0bExample.CoM\x00\x50", Addr{Name: "example.com", Port: 80}, 15, nil},
		{"name is a literal", "\x03\x0810.0.0.1\x00\x50", Addr{IP: netip.MustParseAddr("10.0.0.1"), Port: 80}, 12, nil},
		{"name in brackets", "\x03\x05[::1]\x00\x50", Addr{IP: netip.IPv6Loopback(), Port: 80}, 9, nil},
		// Some clients put any literal into brackets. It is one all the same.
		{"IPv4 in brackets", "\x03\x0a[10.0.0.1]\x00\x50", Addr{IP: netip.MustParseAddr("10.0.0.1"), Port: 80}, 14, nil},
		{"host in brackets", "\x03\x06[host]\x00\x50", Addr{Port: 80}, 10, ErrBadName},
		{"zero port", "\x01\x00\x00\x00\x00\x00\x00", Addr{IP: netip.IPv4Unspecified()}, 7, nil},
		{"empty", "", Addr{}, 0, ErrShort},
		{"type alone", "\x01", Addr{}, 0, ErrShort},
		{"ipv4 one short", "\x01\x7f\x00\x00\x01\x04", Addr{}, 0, ErrShort},
		{"ipv6 one short", "\x04" + strings.Repeat("\x00", 17), Addr{}, 0, ErrShort},
		{"name without length", "\x03", Addr{}, 0, ErrShort},
		{"name one short", "\x03\x01a\x00", Addr{}, 0, ErrShort},
		{"unknown type", "\x02\x7f\x00\x00\x01\x04\x38", Addr{}, 0, ErrAddressType},
		{"type zero", "\x00", Addr{}, 0, ErrAddressType},
		{"empty name", "\x03\x00\x00\x50", Addr{Port: 80}, 4, ErrBadName},
		{"NUL in name", "\x03\x03a\x00b\x00\x50", Addr{Port: 80}, 7, ErrBadName},
		{"PySocks's 0", "\x03\x010\x00\x07", Addr{Port: 7}, 5, ErrBadName},
		{"longest length", "\x03\xff" + long + "\x00\x50", Addr{Port: 80}, 259, ErrBadName},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, n, err := ParseSOCKS5Addr([]byte(tt.in))
			if !errors.Is(err, tt.err) || n != tt.n {
				t.Errorf("ParseSOCKS5Addr = %d bytes, %v; want %d, %v", n, err, tt.n, tt.err)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("address (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAppendSOCKS5Addr(t *testing.T) {
	tests := []struct {
		name string
		addr Addr
		want string
		err  error
	}{
		{"no host", Addr{}, "\x01\x00\x00\x00\x00\x00\x00", nil},
		{"ipv4", Addr{IP: netip.MustParseAddr("10.0.0.1"), Port: 80}, "\x01\x0a\x00\x00\x01\x00\x50", nil},
		{"ipv6", Addr{IP: netip.IPv6Loopback(), Port: 80}, "\x04" + strings.Repeat("\x00", 15) + "\x01\x00\x50", nil},
		{"name", Addr{Name: "a.b", Port: 80}, "\x03\x03a.b\x00\x50", nil},
		{"long name", Addr{Name: strings.Repeat("a", 256), Port: 80}, "", ErrLongName},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := AppendSOCKS5Addr([]byte("x"), tt.addr)
			if !errors.Is(err, tt.err) {
				t.Errorf("error %v, want %v", err, tt.err)
			}
			if diff := cmp.Diff("x"+tt.want, string(got)); diff != "" {
				t.Errorf("bytes (-want +got):\n%s", diff)
			}
		})
	}
}

// What is parsed and written again parses to the same address, and what was
// left behind the address is left alone.
func FuzzSOCKS5Addr(f *testing.F) {
	for _, seed := range []string{
		"\x01\x7f\x00\x00\x01\x04\x38", "\x03\x0bexample.com\x00\x50", "\x03\x00\x00\x50", "\x03\x05[::1]\x00\x50",
		"\x04" + strings.Repeat("\x00", 10) + "\xff\xff\x0a\x00\x00\x01\x00\x35", "\x02", "\x03\xff",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		addr, n, err := ParseSOCKS5Addr(b)
		if !bytes.Equal(b, before) {
			t.Fatal("the input was changed")
		}
		if n > len(b) {
			t.Fatalf("%d bytes of %d", n, len(b))
		}
		if err != nil {
			return
		}
		if addr.IsZero() {
			t.Fatal("no host and no error")
		}
		again, err := AppendSOCKS5Addr(nil, addr)
		if err != nil {
			t.Fatal(err)
		}
		back, m, err := ParseSOCKS5Addr(again)
		addr.Absolute = false // the final dot is for our own look-up, and not written
		if err != nil || m != len(again) || back != addr {
			t.Fatalf("%v written and read again is %v (%d of %d bytes, %v)", addr, back, m, len(again), err)
		}
	})
}
