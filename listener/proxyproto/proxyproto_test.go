package proxyproto

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	proxy "github.com/pires/go-proxyproto"
)

var (
	client4 = netip.MustParseAddrPort("192.0.2.7:50000")
	local4  = netip.MustParseAddrPort("198.51.100.1:1080")
	client6 = netip.MustParseAddrPort("[2001:db8::7]:50000")
	local6  = netip.MustParseAddrPort("[2001:db8::1]:1080")
)

func policy(t *testing.T, mode Mode) *Policy {
	t.Helper()
	p, err := NewPolicy(mode, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// pair is a TCP connection's two ends.
func pair(t *testing.T) (here, there *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	for _, conn := range []net.Conn{c, s} {
		if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return s, c
}

func header(t *testing.T, version int, client, local netip.AddrPort, tlvs ...proxy.TLV) string {
	t.Helper()
	h := proxy.HeaderProxyFromAddrs(byte(version), tcpAddr(client), tcpAddr(local))
	if err := h.SetTLVs(tlvs); err != nil {
		t.Fatal(err)
	}
	raw, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// withSum adds a checksum to a version 2 header; wrong makes it a wrong one.
func withSum(t *testing.T, wrong bool, tlvs ...proxy.TLV) string {
	t.Helper()
	tlvs = append(tlvs, proxy.TLV{Type: proxy.PP2_TYPE_CRC32C, Value: make([]byte, 4)})
	raw := []byte(header(t, 2, client4, local4, tlvs...))
	sum := crc32.Checksum(raw, crc32.MakeTable(crc32.Castagnoli))
	if wrong {
		sum++
	}
	binary.BigEndian.PutUint32(raw[len(raw)-4:], sum)
	return string(raw)
}

func TestRead(t *testing.T) {
	unique := proxy.TLV{Type: proxy.PP2_TYPE_UNIQUE_ID, Value: []byte("abc")}
	vendor := proxy.TLV{Type: 0xE7, Value: []byte("x")}
	tests := []struct {
		name    string
		sent    string
		present bool
		want    Header
	}{
		{"version 1, IPv4", "PROXY TCP4 192.0.2.7 198.51.100.1 50000 1080\r\n", true, Header{Client: client4, Local: local4}},
		{"version 1, IPv6", "PROXY TCP6 2001:db8::7 2001:db8::1 50000 1080\r\n", true, Header{Client: client6, Local: local6}},
		{"version 1, IPv4 in a TCP6 line, as nginx has it", "PROXY TCP6 192.0.2.7 198.51.100.1 50000 1080\r\n", true, Header{Client: client4, Local: local4}},
		{"version 1, unknown", "PROXY UNKNOWN\r\n", true, Header{}},
		{"version 1, unknown with addresses to be ignored", "PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", true, Header{}},
		{"version 2, IPv4", header(t, 2, client4, local4), true, Header{Client: client4, Local: local4}},
		{"version 2, IPv6", header(t, 2, client6, local6), true, Header{Client: client6, Local: local6}},
		{"version 2, a health check's", header(t, 2, netip.AddrPort{}, netip.AddrPort{}), true, Header{}},
		// It was refused where the block that §2.2 has discarded is of no family that is known.
		{"version 2, a health check's with anything in it", string(proxy.SIGV2) + "\x20\xff\x00\x05other", true, Header{}},
		{"version 2, a client without an address", string(proxy.SIGV2) + "\x21\x00\x00\x00", true, Header{}},
		{"version 2, of a unix socket", string(proxy.SIGV2) + "\x21\x31\x00\xd8" + strings.Repeat("\x00", 216), true, Header{}},
		{
			"version 2, a field as large as a client's certificate", header(t, 2, client4, local4, proxy.TLV{Type: 0xE8, Value: []byte(strings.Repeat("c", 12<<10))}), true,
			Header{Client: client4, Local: local4, TLVs: []TLV{{"0xe8", strings.Repeat("c", maxValue) + "..."}}},
		},
		{
			"version 2, fields", header(t, 2, client4, local4, unique, vendor), true,
			Header{Client: client4, Local: local4, TLVs: []TLV{{"unique_id", "abc"}, {"0xe7", "x"}}},
		},
		{
			"version 2, checksum", withSum(t, false, unique), true,
			Header{Client: client4, Local: local4, TLVs: []TLV{{"unique_id", "abc"}}},
		},
		{"SOCKS5", "\x05\x01\x00", false, Header{}},
		{"an HTTP method that begins alike", "PROPFIND / HTTP/1.1\r\n", false, Header{}},
		{"a TLS hello", "\x16\x03\x01\x02\x00", false, Header{}},
		{"an HTTP method with the same letter", "PUT http://a/ HTTP/1.1\r\n", false, Header{}},
		{"another", "POST http://a/ HTTP/1.1\r\n", false, Header{}},
		{"a line end in front of a request", "\r\nGET http://a/ HTTP/1.1\r\n", false, Header{}},
		{"a line end and a half of the signature", "\r\n\r\n\x00\r\nQUIET", false, Header{}},
		{"version 1 in lower-case", "proxy TCP4 192.0.2.7 198.51.100.1 50000 1080\r\n", false, Header{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			here, there := pair(t)
			go func() { _, _ = there.Write([]byte(tt.sent + "behind")); _ = there.CloseWrite() }()
			got, present, err := policy(t, Optional).Read(here)
			if err != nil || present != tt.present {
				t.Fatalf("present %v, %v", present, err)
			}
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Error(diff)
			}
			want := "behind"
			if !present {
				want = tt.sent + want
			}
			if left, err := io.ReadAll(here); err != nil || string(left) != want {
				t.Errorf("left for those behind: %q, %v; want %q", left, err, want)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	big := header(t, 2, client4, local4)
	tests := []struct{ name, sent string }{
		{"no header", "\x05\x01\x00"},
		{"version 1 without an end", "PROXY " + strings.Repeat("x", 200)},
		{"version 1, no address", "PROXY TCP4 nowhere 198.51.100.1 50000 1080\r\n"},
		{"version 1, the client is nobody", "PROXY TCP4 0.0.0.0 198.51.100.1 50000 1080\r\n"},
		{"version 2, wrong checksum", withSum(t, true)},
		{"version 2, a field of 64 KiB", big[:14] + "\xff\xff" + big[16:] + strings.Repeat("x", 70000)},
		{"version 2, cut short", big[:15]},
		{"version 2, a field longer than the header", big[:14] + "\x00\x0f" + big[16:] + "\x05\x00\xff"},
		{"cut short within the signature", "PRO"},
		{"version 1 with a bare line end", "PROXY TCP4 192.0.2.7 198.51.100.1 50000 1080\n"},
		{"version 1, a port past the last", "PROXY TCP4 192.0.2.7 198.51.100.1 99999 1080\r\n"},
		{"version 2, another version", big[:12] + "\x11" + big[13:]},
		{"version 2, another command", big[:12] + "\x22" + big[13:]},
		{"version 2, another family", big[:13] + "\x41" + big[14:]},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			here, there := pair(t)
			go func() { _, _ = there.Write([]byte(tt.sent)); _ = there.CloseWrite() }()
			if _, present, err := policy(t, Required).Read(here); present || !errors.Is(err, ErrHeader) {
				t.Errorf("present %v, %v; want ErrHeader", present, err)
			}
		})
	}
}

// A header may come in two segments, wherever it is cut, and what comes with the
// second is left to those behind.
func TestEveryCut(t *testing.T) {
	for _, version := range []int{1, 2} {
		sent := header(t, version, client6, local6)
		for n := 1; n < len(sent); n++ {
			here, there := pair(t)
			go func() {
				_, _ = io.WriteString(there, sent[:n])
				time.Sleep(time.Millisecond) //nolint:forbidigo // nothing depends on it but how often there are two reads
				_, _ = io.WriteString(there, sent[n:]+"behind")
				_ = there.CloseWrite()
			}()
			got, present, err := policy(t, Required).Read(here)
			if rest, _ := io.ReadAll(here); err != nil || !present || got.Client != client6 || string(rest) != "behind" {
				t.Errorf("version %d, cut at %d: %v, %v, %v, then %q", version, n, got, present, err, rest)
			}
		}
	}
}

// A header may come a byte at a time.
func TestSegments(t *testing.T) {
	for _, version := range []int{1, 2} {
		here, there := pair(t)
		if err := there.SetNoDelay(true); err != nil {
			t.Fatal(err)
		}
		sent := header(t, version, client6, local6)
		go func() {
			for i := range sent {
				_, _ = there.Write([]byte(sent[i : i+1]))
			}
		}()
		got, present, err := policy(t, Required).Read(here)
		if err != nil || !present || got.Client != client6 {
			t.Errorf("version %d: %v, %v, %v", version, got, present, err)
		}
	}
}

// A peer that says nothing is bounded by the deadline that its caller set.
func TestSilence(t *testing.T) {
	here, _ := pair(t)
	if err := here.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, _, err := policy(t, Required).Read(here)
	if ne, ok := errors.AsType[net.Error](err); !ok || !ne.Timeout() {
		t.Errorf("%v; want a time-out", err)
	}
}

func TestPolicy(t *testing.T) {
	if _, err := NewPolicy(Required, nil); err == nil {
		t.Error("headers of anybody are believed")
	}
	inside, outside := netip.MustParseAddr("127.0.0.9"), netip.MustParseAddr("192.0.2.1")
	for _, tt := range []struct {
		mode           Mode
		peer           netip.Addr
		reads, refuses bool
	}{
		{Off, inside, false, false},
		{Optional, inside, true, false},
		{Optional, outside, false, false},
		{Required, inside, true, false},
		{Required, outside, false, true},
	} {
		p, err := NewPolicy(tt.mode, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})
		if err != nil {
			t.Fatal(err)
		}
		if p.Reads(tt.peer) != tt.reads || p.Refuses(tt.peer) != tt.refuses {
			t.Errorf("%s %s: reads %v, refuses %v", tt.mode, tt.peer, p.Reads(tt.peer), p.Refuses(tt.peer))
		}
	}
}

func TestAppend(t *testing.T) {
	for _, tt := range []struct {
		version       int
		client, local netip.AddrPort
		want          string
	}{
		{1, client4, local4, "PROXY TCP4 192.0.2.7 198.51.100.1 50000 1080\r\n"},
		{1, client6, local6, "PROXY TCP6 2001:db8::7 2001:db8::1 50000 1080\r\n"},
		{1, netip.AddrPort{}, local4, "PROXY UNKNOWN\r\n"},
		{1, client4, local6, "PROXY UNKNOWN\r\n"},
		{1, netip.MustParseAddrPort("[::ffff:192.0.2.7]:50000"), local4, "PROXY TCP4 192.0.2.7 198.51.100.1 50000 1080\r\n"},
		{1, netip.MustParseAddrPort("[fe80::1%eth0]:1"), local6, "PROXY TCP6 fe80::1 2001:db8::1 1 1080\r\n"},
		{2, netip.AddrPort{}, local4, string(proxy.SIGV2) + "\x20\x00\x00\x00"},
	} {
		got, err := Append(nil, tt.version, tt.client, tt.local)
		if err != nil || string(got) != tt.want {
			t.Errorf("%q, %v; want %q", got, err, tt.want)
		}
	}
	// What the two families do not have in common is told as IPv6.
	raw, err := Append(nil, 2, client4, local6)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := parse(raw); err != nil || got.Client != client4 || got.Local != local6 {
		t.Errorf("%v, %v", got, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.7 198.51.100.1 50000 1080\r\n"))
	raw, _ := Append(nil, 2, client6, local6)
	f.Add(raw)
	f.Add(append(raw[:14:14], append([]byte{0, 43}, append(raw[16:52:52], 3, 0, 4, 0, 0, 0, 0)...)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		length, err := headerLength(data)
		if err != nil || length == 0 || length > len(data) {
			return
		}
		h, err := parse(data[:length])
		if err != nil {
			if !errors.Is(err, ErrHeader) {
				t.Errorf("an error of no kind: %v", err)
			}
			return
		}
		if h.Client.IsValid() && h.Client.Addr().Is4In6() {
			t.Errorf("%v is not unmapped", h.Client)
		}
		if len(h.TLVs) > maxTLVs {
			t.Errorf("%d fields", len(h.TLVs))
		}
	})
}
