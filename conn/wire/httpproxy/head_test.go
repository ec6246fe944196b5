package httpproxy_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
)

var cmpAddr = cmpopts.EquateComparable(netip.Addr{})

func status(err error) int {
	if se, ok := errors.AsType[*httpproxy.StatusError](err); ok {
		return se.Status
	}
	return 0
}

func TestReadHeadRefuses(t *testing.T) {
	tests := map[string]struct {
		in   string
		want int
	}{
		"bare LF":               {"GET http://a/ HTTP/1.1\nHost: a\r\n\r\n", 400},
		"bare LF in the header": {"GET http://a/ HTTP/1.1\r\nHost: a\n\r\n", 400},
		"bare CR":               {"GET http://a/ HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", 400},
		"obs-fold":              {"GET http://a/ HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", 400},
		"fold at once":          {"GET http://a/ HTTP/1.1\r\n Host: a\r\n\r\n", 400},
		"CL and TE":             {"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
		"two CL":                {"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-length: 3\r\n\r\n", 400},
		"CL list":               {"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\n", 400},
		"CL sign":               {"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n", 400},
		"CL empty":              {"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400},
		"CL huge":               {"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 413},
		"TE not chunked":        {"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400},
		"TE in 1.0":             {"POST http://a/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
		"TE with a tab":         {"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n", 400},
		"blank before colon":    {"GET http://a/ HTTP/1.1\r\nHost : a\r\n\r\n", 400},
		"two Host":              {"GET http://a/ HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", 400},
		"no Host":               {"GET http://a/ HTTP/1.1\r\n\r\n", 400},
		"two credentials":       {"GET http://a/ HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic YTpi\r\nProxy-Authorization: Basic YTpi\r\n\r\n", 400},
		"NUL":                   {"GET http://a/ HTTP/1.1\r\nHost: a\x00\r\n\r\n", 400},
		"no colon":              {"GET http://a/ HTTP/1.1\r\nHost\r\n\r\n", 400},
		"empty name":            {"GET http://a/ HTTP/1.1\r\n: a\r\n\r\n", 400},
		"method":                {"G(T http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"long method":           {strings.Repeat("A", 33) + " http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"two blanks":            {"GET  http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"target control":        {"GET http://a/\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"version 2":             {"GET http://a/ HTTP/2.0\r\nHost: a\r\n\r\n", 400},
		"version lower case":    {"GET http://a/ http/1.1\r\nHost: a\r\n\r\n", 400},
		"version 1.10":          {"GET http://a/ HTTP/1.10\r\nHost: a\r\n\r\n", 400},
		"empty lines":           {"\r\n\r\nGET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"CONNECT with a body":   {"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", 400},
		"CONNECT chunked":       {"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
		"long line":             {"GET http://a/" + strings.Repeat("x", httpproxy.MaxHead), 431},
		"long head":             {"GET http://a/ HTTP/1.1\r\n" + strings.Repeat("A: "+strings.Repeat("b", 200)+"\r\n", 400), 431},
		"many fields":           {"GET http://a/ HTTP/1.1\r\n" + strings.Repeat("A: b\r\n", 1001) + "\r\n", 431},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := new(httpproxy.HeadReader).Read(bufio.NewReaderSize(strings.NewReader(tt.in), 16))
			if got := status(err); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("status %d (%v), want %d", got, err, tt.want)
			}
		})
	}
}

func TestReadHead(t *testing.T) {
	const in = "\r\nPOST http://a/ HTTP/1.1\r\nHost: a\r\nX-Empty:\r\ncontent-length:  3 \r\n\r\nabcNEXT"
	r := bufio.NewReader(strings.NewReader(in))
	h, err := new(httpproxy.HeadReader).Read(r)
	if err != nil {
		t.Fatal(err)
	}
	want := &httpproxy.Head{
		Method: "POST", Target: "http://a/", Minor: 1, Length: 3, HasLength: true,
		Fields: []httpproxy.Field{{Name: "Host", Value: "a"}, {Name: "X-Empty"}, {Name: "content-length", Value: "3"}},
		Size:   len(in) - 2 - len("abcNEXT"),
	}
	if diff := cmp.Diff(want, h, cmpopts.IgnoreUnexported(httpproxy.Head{})); diff != "" {
		t.Error(diff)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "abcNEXT" {
		t.Errorf("left %q", rest)
	}
}

func TestReadHeadEnds(t *testing.T) {
	if _, err := new(httpproxy.HeadReader).Read(bufio.NewReader(strings.NewReader(""))); !errors.Is(err, io.EOF) {
		t.Errorf("no byte: %v", err)
	}
	if _, err := new(httpproxy.HeadReader).Read(bufio.NewReader(strings.NewReader("GET http"))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a head: %v", err)
	}
}

// TestHeadReaderResumes: a time-out between two bytes of a head loses none.
func TestHeadReaderResumes(t *testing.T) {
	const in = "GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n"
	for cut := range len(in) {
		r := bufio.NewReader(io.MultiReader(strings.NewReader(in[:cut]),
			iotest.ErrReader(os.ErrDeadlineExceeded)))
		var hr httpproxy.HeadReader
		if _, err := hr.Read(r); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		r.Reset(strings.NewReader(in[cut:]))
		h, err := hr.Read(r)
		if err != nil || h.Size != len(in) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
	}
}

func TestRequest(t *testing.T) {
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	tests := map[string]struct {
		line string
		want wire.Addr // zero: 400
	}{
		"CONNECT name":         {"CONNECT Example.org:443", wire.Addr{Name: "example.org", Port: 443}},
		"CONNECT IPv4":         {"CONNECT 192.0.2.1:1", wire.Addr{IP: four, Port: 1}},
		"CONNECT IPv6":         {"CONNECT [2001:db8::1]:65535", wire.Addr{IP: six, Port: 65535}},
		"CONNECT no port":      {"CONNECT example.org", wire.Addr{}},
		"CONNECT empty port":   {"CONNECT example.org:", wire.Addr{}},
		"CONNECT port 0":       {"CONNECT example.org:0", wire.Addr{}},
		"CONNECT big port":     {"CONNECT example.org:65536", wire.Addr{}},
		"CONNECT signed port":  {"CONNECT example.org:+80", wire.Addr{}},
		"CONNECT bare IPv6":    {"CONNECT 2001:db8::1:443", wire.Addr{}},
		"CONNECT IPv6 no port": {"CONNECT [2001:db8::1]", wire.Addr{}},
		"CONNECT open bracket": {"CONNECT [2001:db8::1:443", wire.Addr{}},
		"CONNECT bracket junk": {"CONNECT [2001:db8::1]x:443", wire.Addr{}},
		"CONNECT [IPv4]":       {"CONNECT [192.0.2.1]:443", wire.Addr{}},
		"CONNECT URL":          {"CONNECT http://example.org/", wire.Addr{}},
		"CONNECT userinfo":     {"CONNECT a@example.org:443", wire.Addr{}},
		"CONNECT no host":      {"CONNECT :443", wire.Addr{}},
		"GET":                  {"GET http://example.org/x?y", wire.Addr{Name: "example.org", Port: 80}},
		"GET upper-case":       {"GET HTTP://EXAMPLE.org", wire.Addr{Name: "example.org", Port: 80}},
		"GET port":             {"GET http://[2001:db8::1]:81/", wire.Addr{IP: six, Port: 81}},
		"GET empty port":       {"GET http://example.org:/", wire.Addr{Name: "example.org", Port: 80}},
		"GET port 0":           {"GET http://example.org:0/", wire.Addr{}},
		"GET https":            {"GET https://example.org/", wire.Addr{}},
		"GET ftp":              {"GET ftp://example.org/", wire.Addr{}},
		"GET origin form":      {"GET /", wire.Addr{}},
		"GET no host":          {"GET http:///x", wire.Addr{}},
		"GET userinfo":         {"GET http://a:b@example.org/", wire.Addr{Name: "example.org", Port: 80}},
		"GET two userinfos":    {"GET http://a@evil.example:b@example.org/", wire.Addr{}},
		"GET backslash":        {"GET http://evil.example\\@example.org/", wire.Addr{}},
		"GET backslash host":   {"GET http://evil.example\\.example.org/", wire.Addr{}},
		"GET outside ASCII":    {"GET http://example.org/\xe4\xff?100%&%zz|\"<>", wire.Addr{Name: "example.org", Port: 80}},
		"OPTIONS asterisk":     {"OPTIONS *", wire.Addr{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h, err := new(httpproxy.HeadReader).Read(bufio.NewReader(strings.NewReader(tt.line + " HTTP/1.1\r\nHost: x\r\n\r\n")))
			if err != nil {
				t.Fatal(err)
			}
			got, err := h.Request()
			if tt.want.IsZero() {
				if status(err) != http.StatusBadRequest {
					t.Fatalf("got %v, %v", got, err)
				}
				return
			}
			want := wire.Request{Protocol: wire.HTTP, Command: wire.CommandConnect, Dest: tt.want}
			if diff := cmp.Diff(want, got, cmpAddr); err != nil || diff != "" {
				t.Error(err, diff)
			}
		})
	}
}

// A URL behind CONNECT, or a user's name and password, was told to put its IPv6
// address into brackets.
func TestConnectSaysWhatIsWrong(t *testing.T) {
	for target, want := range map[string]string{
		"http://example.org:80/": "The target is not host:port.",
		"a:b@example.org:443":    "The target is not host:port.",
		"2001:db8::1:443":        "An IPv6 address needs brackets.",
	} {
		h, err := new(httpproxy.HeadReader).Read(bufio.NewReader(strings.NewReader("CONNECT " + target + " HTTP/1.1\r\nHost: x\r\n\r\n")))
		if err != nil {
			t.Fatal(err)
		}
		if _, err = h.Request(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", target, err)
		}
	}
}

func TestParseAuthorization(t *testing.T) {
	tests := map[string]struct {
		in   string
		want httpproxy.Credentials
		ok   bool
		bad  bool
	}{
		"padded":          {in: "Basic YWxpY2U6c2VjcmV0Og==", want: httpproxy.Credentials{User: "alice", Password: "secret:"}, ok: true},
		"unpadded":        {in: "basic  YWxpY2U6eA", want: httpproxy.Credentials{User: "alice", Password: "x"}, ok: true},
		"raw bytes":       {in: "BASIC /zoA", want: httpproxy.Credentials{User: "\xff", Password: "\x00"}, ok: true},
		"empty password":  {in: "Basic YTo=", want: httpproxy.Credentials{User: "a"}, ok: true},
		"another scheme":  {in: "Digest YTpi"},
		"a ticket":        {in: "negotiate YTpi", want: httpproxy.Credentials{Token: []byte("a:b")}, ok: true},
		"no ticket":       {in: "Negotiate", want: httpproxy.Credentials{Token: []byte{}}},
		"no base64":       {in: "Basic a:b", bad: true},
		"no colon":        {in: "Basic YWJj", bad: true},
		"nothing":         {in: "Basic", bad: true},
		"long user":       {in: "Basic " + strings.Repeat("YWFh", 90) + "Og==", bad: true},
		"scheme run into": {in: "BasicYTo="},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok, err := httpproxy.ParseAuthorization(tt.in)
			if !reflect.DeepEqual(got, tt.want) || ok != tt.ok || (err != nil) != tt.bad {
				t.Errorf("%q %q %v %v", got.User, got.Password, ok, err)
			}
		})
	}
}

// TestSegmentation: a head reads the same however the network cuts it.
func TestSegmentation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-z]{1,20}\.[a-z]{2,6}`).Draw(t, "host")
		port := rapid.Uint16Range(1, 65535).Draw(t, "port")
		value := rapid.StringMatching(`[!-~]{0,30}`).Draw(t, "value")
		in := httpproxy.AppendConnect(nil, wire.Addr{Name: name, Port: port}, &httpproxy.Credentials{User: "u", Password: value})
		in = append(in, "rest"...)
		var cuts []io.Reader
		for len(in) > 0 {
			n := rapid.IntRange(1, len(in)).Draw(t, "cut")
			cuts = append(cuts, bytes.NewReader(in[:n]))
			in = in[n:]
		}
		r := bufio.NewReaderSize(io.MultiReader(cuts...), 16)
		h, err := new(httpproxy.HeadReader).Read(r)
		if err != nil {
			t.Fatal(err)
		}
		req, err := h.Request()
		if err != nil || req.Dest != (wire.Addr{Name: name, Port: port}) {
			t.Fatal(req, err)
		}
		c, ok, err := h.Credentials()
		if err != nil || !ok || c.User != "u" || c.Password != value {
			t.Fatal(ok, err)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "rest" {
			t.Fatalf("left %q", rest)
		}
	})
}

func FuzzReadHead(f *testing.F) {
	f.Add([]byte("CONNECT example.org:443 HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic YTpi\r\n\r\nrest"))
	f.Add([]byte("POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		h, err := new(httpproxy.HeadReader).Read(bufio.NewReader(bytes.NewReader(in)))
		if err != nil {
			return
		}
		if h.Size > httpproxy.MaxHead || h.Chunked && h.Length != 0 {
			t.Fatalf("accepted %+v", h)
		}
		// What passed here, net/http must read alike.
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(bytes.TrimPrefix(in, []byte("\r\n"))[:h.Size])))
		if err != nil {
			return
		}
		chunked := len(req.TransferEncoding) == 1
		if chunked != h.Chunked || !chunked && req.ContentLength != h.Length {
			t.Fatalf("body %d/%v here, %d/%v there", h.Length, h.Chunked, req.ContentLength, req.TransferEncoding)
		}
		_, _ = h.Request()
		_, _, _ = h.Credentials()
	})
}
