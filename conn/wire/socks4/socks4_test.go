package socks4_test

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"cleversocks/conn/wire"
	"cleversocks/conn/wire/socks4"
)

var cmpAddr = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})

func request(cmd wire.Command, dest wire.Addr, user string) socks4.Request {
	return socks4.Request{Request: wire.Request{Protocol: wire.SOCKS4, Command: cmd, Dest: dest}, UserID: user}
}

func TestParseRequest(t *testing.T) {
	four := netip.MustParseAddr("192.0.2.1")
	tests := map[string]struct {
		in   string
		want socks4.Request
		err  error
		rest string
	}{
		"connect": {
			in:   "\x04\x01\x00\x50\xc0\x00\x02\x01me\x00GET",
			want: request(wire.CommandConnect, wire.Addr{IP: four, Port: 80}, "me"), rest: "GET",
		},
		"bind": {
			in:   "\x04\x02\x00\x00\xc0\x00\x02\x01\x00",
			want: request(wire.CommandBind, wire.Addr{IP: four}, ""),
		},
		"4a name": {
			in:   "\x04\x01\x01\xbb\x00\x00\x00\x07u\x00WWW.Example.ORG.\x00x",
			want: request(wire.CommandConnect, wire.Addr{Name: "www.example.org", Port: 443, Absolute: true}, "u"), rest: "x",
		},
		"4a literal becomes an address": {
			in:   "\x04\x01\x00\x50\x00\x00\x00\x01\x00192.0.2.1\x00",
			want: request(wire.CommandConnect, wire.Addr{IP: four, Port: 80}, ""),
		},
		"4a bracketed IPv6": {
			in:   "\x04\x01\x00\x50\x00\x00\x00\x01\x00[2001:db8::1]\x00",
			want: request(wire.CommandConnect, wire.Addr{IP: netip.MustParseAddr("2001:db8::1"), Port: 80}, ""),
		},
		"0.0.0.0 is an address": {
			in:   "\x04\x02\x00\x50\x00\x00\x00\x00\x00",
			want: request(wire.CommandBind, wire.Addr{IP: netip.IPv4Unspecified(), Port: 80}, ""),
		},
		"version":            {in: "\x05\x01\x00\x50\xc0\x00\x02\x01\x00", err: socks4.ErrMalformed},
		"command":            {in: "\x04\x03\x00\x50\xc0\x00\x02\x01\x00", err: socks4.ErrCommand},
		"connect to port 0":  {in: "\x04\x01\x00\x00\xc0\x00\x02\x01\x00", err: socks4.ErrMalformed},
		"4a empty name":      {in: "\x04\x01\x00\x50\x00\x00\x00\x01\x00\x00", err: socks4.ErrMalformed},
		"4a control":         {in: "\x04\x01\x00\x50\x00\x00\x00\x01\x00a\nb\x00", err: socks4.ErrMalformed},
		"user id too long":   {in: "\x04\x01\x00\x50\xc0\x00\x02\x01" + strings.Repeat("u", 256) + "\x00", err: socks4.ErrTooLong},
		"name too long":      {in: "\x04\x01\x00\x50\x00\x00\x00\x01\x00" + strings.Repeat("n", 256) + "\x00", err: socks4.ErrTooLong},
		"cut in the head":    {in: "\x04\x01\x00", err: wire.ErrShort},
		"cut in the user id": {in: "\x04\x01\x00\x50\xc0\x00\x02\x01me", err: wire.ErrShort},
		"cut in the name":    {in: "\x04\x01\x00\x50\x00\x00\x00\x01\x00exa", err: wire.ErrShort},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, n, err := socks4.ParseRequest([]byte(tt.in))
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if tt.err != nil {
				return
			}
			if diff := cmp.Diff(tt.want, got, cmpAddr); diff != "" {
				t.Error(diff)
			}
			if rest := tt.in[n:]; rest != tt.rest {
				t.Errorf("left %q, want %q", rest, tt.rest)
			}
		})
	}
}

func TestAppendReply(t *testing.T) {
	tests := map[string]struct {
		code  wire.ReplyCode
		bound string
		want  string
	}{
		"granted":      {wire.ReplySucceeded, "192.0.2.1:258", "\x00\x5a\x01\x02\xc0\x00\x02\x01"},
		"mapped":       {wire.ReplySucceeded, "[::ffff:192.0.2.1]:258", "\x00\x5a\x01\x02\xc0\x00\x02\x01"},
		"IPv6":         {wire.ReplySucceeded, "[2001:db8::1]:258", "\x00\x5a\x01\x02\x00\x00\x00\x00"},
		"policy":       {wire.ReplyNotAllowed, "0.0.0.0:0", "\x00\x5b\x00\x00\x00\x00\x00\x00"},
		"unsupported":  {wire.ReplyCommandNotSupported, "0.0.0.0:0", "\x00\x5b\x00\x00\x00\x00\x00\x00"},
		"refused":      {wire.ReplyConnectionRefused, "0.0.0.0:0", "\x00\x5b\x00\x00\x00\x00\x00\x00"},
		"unknown code": {wire.ReplyCode(200), "0.0.0.0:0", "\x00\x5b\x00\x00\x00\x00\x00\x00"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := socks4.AppendReply(nil, tt.code, netip.MustParseAddrPort(tt.bound))
			if string(got) != tt.want {
				t.Errorf("%x, want %x", got, tt.want)
			}
		})
	}
	if got := socks4.AppendReply(nil, wire.ReplyGeneralFailure, netip.AddrPort{}); len(got) != socks4.ReplyLen {
		t.Errorf("reply with no address: %d bytes", len(got))
	}
}

func drawRequest(t *rapid.T) (socks4.Request, []byte) {
	dest := wire.Addr{Port: rapid.Uint16Range(1, 65535).Draw(t, "port")}
	if rapid.Bool().Draw(t, "named") {
		dest.Name = rapid.StringMatching(`[a-z][a-z0-9-]{0,20}[a-z](\.[a-z]{2,10}){0,3}`).Draw(t, "name")
	} else {
		dest.IP = netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "ip")))
		if b := dest.IP.As4(); b[0] == 0 {
			dest.IP = netip.AddrFrom4([4]byte{1, b[1], b[2], b[3]})
		}
	}
	user := rapid.StringMatching(`[^\x00]{0,20}`).Draw(t, "user")
	cmd := rapid.SampledFrom([]wire.Command{wire.CommandConnect, wire.CommandBind}).Draw(t, "command")
	b, err := socks4.AppendRequest(nil, cmd, dest, user)
	if err != nil {
		t.Fatal(err)
	}
	return request(cmd, dest, user), b
}

// TestSegmentation: what the client's side writes, the server's side reads,
// as soon as the last byte is there, and bytes behind it are left.
func TestSegmentation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want, b := drawRequest(t)
		for cut := range b {
			if _, n, err := socks4.ParseRequest(b[:cut]); !errors.Is(err, wire.ErrShort) || n != 0 {
				t.Fatalf("%d of %d bytes: %d, %v", cut, len(b), n, err)
			}
		}
		got, n, err := socks4.ParseRequest(append(bytes.Clone(b), "rest"...))
		if err != nil || n != len(b) {
			t.Fatalf("%d of %d bytes, %v", n, len(b), err)
		}
		if diff := cmp.Diff(want, got, cmpAddr); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestReadReply(t *testing.T) {
	tests := map[string]struct {
		in   string
		code wire.ReplyCode
		err  error
	}{
		"granted":   {in: "\x00\x5a\x00\x50\xc0\x00\x02\x01", code: wire.ReplySucceeded},
		"version 4": {in: "\x04\x5a\x00\x50\xc0\x00\x02\x01", code: wire.ReplySucceeded},
		"rejected":  {in: "\x00\x5b\x00\x00\x00\x00\x00\x00", code: wire.ReplyGeneralFailure},
		"identd":    {in: "\x00\x5d\x00\x00\x00\x00\x00\x00", code: wire.ReplyGeneralFailure},
		"garbage":   {in: "HTTP/1.1", err: socks4.ErrMalformed},
		"code":      {in: "\x00\x00\x00\x00\x00\x00\x00\x00", err: socks4.ErrMalformed},
		"short":     {in: "\x00\x5a", err: io.ErrUnexpectedEOF},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			code, _, err := socks4.ReadReply(iotest.OneByteReader(strings.NewReader(tt.in)))
			if !errors.Is(err, tt.err) || code != tt.code {
				t.Errorf("%v, %v; want %v, %v", code, err, tt.code, tt.err)
			}
		})
	}
}

func TestAppendRequestRefuses(t *testing.T) {
	dest := wire.Addr{Name: "example.org", Port: 1}
	if _, err := socks4.AppendRequest(nil, wire.CommandConnect, dest, "a\x00b"); err == nil {
		t.Error("a NUL in the user id would shift every field behind it")
	}
	if _, err := socks4.AppendRequest(nil, wire.CommandConnect, wire.Addr{}, ""); err == nil {
		t.Error("no destination")
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte("\x04\x01\x00\x50\xc0\x00\x02\x01me\x00"))
	f.Add([]byte("\x04\x01\x00\x50\x00\x00\x00\x01\x00example.org\x00rest"))
	f.Fuzz(func(t *testing.T, in []byte) {
		req, _, err := socks4.ParseRequest(in)
		if err != nil {
			return
		}
		if req.Dest.IsZero() || len(req.UserID) > socks4.MaxUserID {
			t.Fatalf("accepted %+v", req)
		}
		again, err := socks4.AppendRequest(nil, req.Command, req.Dest, req.UserID)
		if err != nil {
			t.Fatal(err)
		}
		req.Dest.Absolute = false // the final dot is for our own look-up, and not written
		back, _, err := socks4.ParseRequest(again)
		if err != nil || back != req {
			t.Fatalf("%+v came back as %+v, %v", req, back, err)
		}
	})
}

func FuzzReadReply(f *testing.F) {
	f.Add([]byte("\x00\x5a\x00\x50\xc0\x00\x02\x01"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		if _, _, err := socks4.ReadReply(r); err == nil && r.Len() != len(in)-socks4.ReplyLen {
			t.Fatal("read past the reply")
		}
	})
}
