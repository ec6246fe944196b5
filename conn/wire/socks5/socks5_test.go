package socks5

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cleversocks/conn/wire"
)

func TestParseMethods(t *testing.T) {
	all := append([]byte{5, 255}, make([]byte, 255)...)
	for i := range 255 {
		all[2+i] = byte(i)
	}
	tests := map[string]struct {
		in   []byte
		has  []Method
		not  []Method
		err  error
		left int
	}{
		"curl":             {in: []byte{5, 2, 0, 2}, has: []Method{MethodNone, MethodPassword}, not: []Method{MethodGSSAPI}},
		"none offered":     {in: []byte{5, 0}, not: []Method{MethodNone, MethodPassword, MethodNoAcceptable}},
		"all 255":          {in: all, has: []Method{0, 1, 2, 63, 64, 128, 254}, not: []Method{MethodNoAcceptable}},
		"pipelined":        {in: []byte{5, 1, 0, 5, 1, 0}, has: []Method{MethodNone}, left: 3},
		"other version":    {in: []byte{4, 1, 0}, err: ErrMalformed},
		"nothing":          {in: nil, err: wire.ErrShort},
		"ends in the list": {in: []byte{5, 3, 0, 1}, err: wire.ErrShort},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, n, err := ParseMethods(tt.in)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if err != nil {
				return
			}
			for _, m := range tt.has {
				if !got.Has(m) {
					t.Errorf("method %#x is missing", m)
				}
			}
			for _, m := range tt.not {
				if got.Has(m) {
					t.Errorf("method %#x was not offered", m)
				}
			}
			if left := len(tt.in) - n; left != tt.left {
				t.Errorf("%d bytes left, want %d", left, tt.left)
			}
		})
	}
}

func TestParseCredentials(t *testing.T) {
	tests := map[string]struct {
		in             []byte
		user, password string
		err            error
	}{
		"both":           {in: []byte("\x01\x05alice\x06secret"), user: "alice", password: "secret"},
		"both empty":     {in: []byte{1, 0, 0}},
		"not UTF-8":      {in: []byte{1, 1, 0xff, 2, 0x80, 0}, user: "\xff", password: "\x80\x00"},
		"longest":        {in: bytes.Join([][]byte{{1, 255}, bytes.Repeat([]byte("u"), 255), {255}, bytes.Repeat([]byte("p"), 255)}, nil), user: string(bytes.Repeat([]byte("u"), 255)), password: string(bytes.Repeat([]byte("p"), 255))},
		"other version":  {in: []byte{5, 1, 'a', 1, 'b'}, err: ErrMalformed},
		"ends in a name": {in: []byte{1, 5, 'a'}, err: wire.ErrShort},
		"no password":    {in: []byte{1, 1, 'a', 3, 'b'}, err: wire.ErrShort},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			user, password, _, err := ParseCredentials(tt.in)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if string(user) != tt.user || string(password) != tt.password {
				t.Errorf("got %q %q, want %q %q", user, password, tt.user, tt.password)
			}
		})
	}
}

func TestParseRequest(t *testing.T) {
	name := func(s string) []byte { return append([]byte{5, 1, 0, 3, byte(len(s))}, s...) }
	tests := map[string]struct {
		in    []byte
		want  wire.Request
		reply wire.ReplyCode
		err   error
	}{
		"IPv4":               {in: []byte{5, 1, 0, 1, 192, 0, 2, 7, 1, 187}, want: wire.Request{Command: 1, Dest: wire.Addr{IP: netip.MustParseAddr("192.0.2.7"), Port: 443}}},
		"IPv6":               {in: append([]byte{5, 1, 9, 4}, append(netip.MustParseAddr("2001:db8::1").AsSlice(), 0, 80)...), want: wire.Request{Command: 1, Dest: wire.Addr{IP: netip.MustParseAddr("2001:db8::1"), Port: 80}}},
		"mapped IPv6":        {in: append([]byte{5, 1, 0, 4}, append(netip.MustParseAddr("::ffff:127.0.0.1").AsSlice(), 0, 80)...), want: wire.Request{Command: 1, Dest: wire.Addr{IP: netip.MustParseAddr("127.0.0.1"), Port: 80}}},
		"name":               {in: append(name("Example.COM."), 0, 80), want: wire.Request{Command: 1, Dest: wire.Addr{Name: "example.com", Port: 80, Absolute: true}}},
		"literal as name":    {in: append(name("[::1]"), 0, 80), want: wire.Request{Command: 1, Dest: wire.Addr{IP: netip.MustParseAddr("::1"), Port: 80}}},
		"associate, name 0":  {in: []byte{5, 3, 0, 3, 1, '0', 0, 0}, want: wire.Request{Command: 3}},
		"bind, port 0":       {in: []byte{5, 2, 0, 1, 0, 0, 0, 0, 0, 0}, want: wire.Request{Command: 2, Dest: wire.Addr{IP: netip.IPv4Unspecified()}}},
		"empty name":         {in: append(name(""), 0, 80), reply: wire.ReplyGeneralFailure, err: wire.ErrBadName},
		"NUL in the name":    {in: append(name("a\x00b"), 0, 80), reply: wire.ReplyGeneralFailure, err: wire.ErrBadName},
		"port 0":             {in: []byte{5, 1, 0, 1, 192, 0, 2, 7, 0, 0}, reply: wire.ReplyGeneralFailure, err: ErrMalformed},
		"command 9":          {in: []byte{5, 9, 0, 1, 192, 0, 2, 7, 0, 1}, reply: wire.ReplyCommandNotSupported, err: ErrMalformed},
		"address type 2":     {in: []byte{5, 1, 0, 2, 192, 0, 2, 7, 0, 1}, reply: wire.ReplyAddressTypeNotSupported, err: ErrMalformed},
		"version 4":          {in: []byte{4, 1, 0, 1, 192, 0, 2, 7, 0, 1}, reply: wire.ReplyGeneralFailure, err: ErrMalformed},
		"address type alone": {in: []byte{5, 1, 0, 9}, reply: wire.ReplyAddressTypeNotSupported, err: ErrMalformed},
		"version alone":      {in: []byte{4}, reply: wire.ReplyGeneralFailure, err: ErrMalformed},
		"ends in the middle": {in: []byte{5, 1, 0, 1, 192, 0}, err: wire.ErrShort},
		"nothing":            {err: wire.ErrShort},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, _, err := ParseRequest(tt.in)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if reqErr, ok := errors.AsType[*RequestError](err); ok != (tt.reply != 0) || ok && reqErr.Reply != tt.reply {
				t.Errorf("reply of %v, want %v", err, tt.reply)
			}
			tt.want.Protocol = wire.SOCKS5
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); err == nil && diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Five bytes were awaited before any was looked at, so that a request which
// was wrong before that had no answer until the handshake timed out.
func TestParseRequestJudgesEachByteAsItComes(t *testing.T) {
	for _, in := range [][]byte{{4}, {4, 1, 0, 1}, {5, 1, 0, 9}, {5, 1, 0, 0}} {
		_, _, err := ParseRequest(in)
		if _, ok := errors.AsType[*RequestError](err); !ok {
			t.Errorf("% x: %v, want a refusal", in, err)
		}
	}
}

func TestAppendReply(t *testing.T) {
	tests := []struct {
		bound string
		want  []byte
	}{
		{"192.0.2.7:1080", []byte{5, 0, 0, 1, 192, 0, 2, 7, 4, 56}},
		{"[::ffff:192.0.2.7]:1080", []byte{5, 0, 0, 1, 192, 0, 2, 7, 4, 56}},
		{"[::1]:80", []byte{5, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 80}},
		{"", []byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0}},
	}
	for _, tt := range tests {
		bound, _ := netip.ParseAddrPort(tt.bound)
		if got := AppendReply(nil, wire.ReplySucceeded, bound); !bytes.Equal(got, tt.want) {
			t.Errorf("%s: %x, want %x", tt.bound, got, tt.want)
		}
	}
}

// A message is the same with bytes behind it, and none while one is missing.
func TestSegmentation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		host := rapid.StringMatching(`[a-z]{1,20}\.[a-z]{2,9}`).Draw(t, "host")
		port := rapid.Uint16Range(1, 65535).Draw(t, "port")
		msg := append([]byte{5, 1, 0}, 0)
		msg, err := wire.AppendSOCKS5Addr(msg[:3], wire.Addr{Name: host, Port: port})
		if err != nil {
			t.Fatal(err)
		}
		for cut := range msg {
			if _, n, err := ParseRequest(msg[:cut]); !errors.Is(err, wire.ErrShort) || n != 0 {
				t.Fatalf("%d of %d bytes: %d, %v", cut, len(msg), n, err)
			}
		}
		got, n, err := ParseRequest(append(bytes.Clone(msg), "ahead"...))
		if err != nil || n != len(msg) || got.Dest.Name != host || got.Dest.Port != port {
			t.Fatalf("%v, %d of %d bytes, %v", got, n, len(msg), err)
		}
	})
}

func FuzzParseMethods(f *testing.F) {
	f.Add([]byte{5, 2, 0, 2})
	f.Add([]byte{5, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		_, n, err := ParseMethods(in)
		if err == nil && (in[0] != Version || n > len(in)) {
			t.Errorf("accepted %d bytes of % x", n, in)
		}
	})
}

func FuzzParseCredentials(f *testing.F) {
	f.Add([]byte("\x01\x05alice\x06secret"))
	f.Add([]byte{1, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		user, password, _, err := ParseCredentials(in)
		if err == nil && !bytes.HasPrefix(in, bytes.Join([][]byte{{1, byte(len(user))}, user, {byte(len(password))}, password}, nil)) {
			t.Errorf("%q %q do not stand in the message", user, password)
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte{5, 1, 0, 1, 192, 0, 2, 7, 1, 187})
	f.Add([]byte{5, 1, 0, 3, 3, 'a', '.', 'b', 0, 80})
	f.Add([]byte{5, 3, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 80})
	f.Fuzz(func(t *testing.T, in []byte) {
		req, n, err := ParseRequest(in)
		if _, isRefused := errors.AsType[*RequestError](err); err != nil && !isRefused && !errors.Is(err, wire.ErrShort) {
			t.Errorf("an error that is no refusal: %v", err)
		}
		if err != nil {
			return
		}
		if n > len(in) || n > MaxMessage {
			t.Errorf("%d of %d bytes", n, len(in))
		}
		if req.Dest.IsName() == req.Dest.IP.IsValid() && req.Command != wire.CommandUDPAssociate {
			t.Errorf("neither a name nor an address, or both: %+v", req.Dest)
		}
		if again, err := wire.AppendSOCKS5Addr(nil, req.Dest); err != nil || req.Dest.IsName() && !bytes.Contains(again, []byte(req.Dest.Name)) {
			t.Errorf("%v does not go back on the wire: %v", req.Dest, err)
		}
	})
}
