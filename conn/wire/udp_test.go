package wire

import (
	"errors"
	"net/netip"
	"testing"
)

func TestParseUDPHeader(t *testing.T) {
	tests := []struct {
		name string
		in   string
		frag byte
		dest string
		n    int
		err  error
	}{
		{"ipv4", "\x00\x00\x00\x01\x0a\x00\x00\x01\x00\x35payload", 0, "10.0.0.1:53", 10, nil},
		{"empty payload", "\x00\x00\x00\x01\x0a\x00\x00\x01\x00\x35", 0, "10.0.0.1:53", 10, nil},
		{"last fragment", "\x00\x00\x83\x01\x0a\x00\x00\x01\x00\x35", 0x83, "10.0.0.1:53", 10, nil},
		{"name", "\x00\x00\x00\x03\x01a\x00\x35x", 0, "a:53", 8, nil},
		{"reserved not zero", "\xff\xff\x00\x03\x01a\x00\x35x", 0, "a:53", 8, nil},
		{"nothing", "", 0, "", 0, ErrShort},
		{"two bytes", "\x00\x00", 0, "", 0, ErrShort},
		{"no address", "\x00\x00\x00", 0, "", 0, ErrShort},
		{"one short", "\x00\x00\x00\x01\x0a\x00\x00\x01\x00", 0, "", 0, ErrShort},
		{"unknown type", "\x00\x00\x00\x05\x0a\x00\x00\x01\x00\x35", 0, "", 0, ErrAddressType},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, n, err := ParseUDPHeader([]byte(tt.in))
			if !errors.Is(err, tt.err) || n != tt.n || h.Frag != tt.frag {
				t.Fatalf("frag %#x, %d bytes, %v; want %#x, %d, %v", h.Frag, n, err, tt.frag, tt.n, tt.err)
			}
			if err != nil {
				return
			}
			dest, err := h.Dest.Addr()
			if err != nil || dest.String() != tt.dest {
				t.Errorf("destination %v, %v; want %s", dest, err, tt.dest)
			}
		})
	}
}

func TestUDPHeaderAllocatesNothing(t *testing.T) {
	b := make([]byte, 0, MaxUDPHeader)
	from := netip.MustParseAddrPort("[2001:db8::1]:53")
	allocs := testing.AllocsPerRun(100, func() {
		h, _, err := ParseUDPHeader(AppendUDPReplyHeader(b, from))
		if err != nil || h.Dest.IP != from.Addr() {
			t.Fatal(h, err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func FuzzUDPHeader(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01\x0a\x00\x00\x01\x00\x35payload"))
	f.Add([]byte("\x00\x00\x81\x03\x03a.b\x00\x35"))
	f.Add([]byte("\x00\x00\x00\x04"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, err := ParseUDPHeader(b)
		if err != nil {
			if n != 0 {
				t.Fatalf("%d bytes and %v", n, err)
			}
			return
		}
		if n > len(b) || n > MaxUDPHeader {
			t.Fatalf("%d bytes of %d", n, len(b))
		}
		dest, err := h.Dest.Addr()
		if err != nil {
			return
		}
		again, err := AppendUDPHeader(nil, dest)
		if err != nil {
			t.Fatal(err)
		}
		dest.Absolute = false // the final dot is for our own look-up, and not written
		back, _, err := ParseUDPHeader(again)
		if err != nil || back.Frag != 0 {
			t.Fatal(back, err)
		}
		if got, err := back.Dest.Addr(); err != nil || got != dest {
			t.Fatalf("%v became %v, %v", dest, got, err)
		}
	})
}
