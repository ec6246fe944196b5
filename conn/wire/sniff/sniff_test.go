package sniff

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// hello is what Go's client says first.
func hello(tb testing.TB, c *tls.Config) []byte {
	tb.Helper()
	here, there := net.Pipe()
	defer here.Close()
	done := make(chan struct{})
	go func() { defer close(done); _ = tls.Client(there, c).Handshake() }()
	head := make([]byte, recordHeader)
	if _, err := io.ReadFull(here, head); err != nil {
		tb.Fatal(err)
	}
	b := append(head, make([]byte, binary.BigEndian.Uint16(head[3:]))...)
	if _, err := io.ReadFull(here, b[recordHeader:]); err != nil {
		tb.Fatal(err)
	}
	here.Close()
	<-done
	return b
}

// inRecords spreads a hello over records of so many bytes.
func inRecords(b []byte, size int) (out []byte) {
	message := b[recordHeader:]
	for len(message) > 0 {
		n := min(size, len(message))
		out = append(out, recordHandshake, 3, 1, byte(n>>8), byte(n))
		out = append(out, message[:n]...)
		message = message[n:]
	}
	return out
}

// withExtension is a small hello with one extension and nothing else.
func withExtension(kind uint16, data []byte) []byte {
	extensions := binary.BigEndian.AppendUint16(nil, kind)
	extensions = append(binary.BigEndian.AppendUint16(extensions, uint16(len(data))), data...)
	return withExtensions(extensions)
}

func withExtensions(extensions []byte) []byte {
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0, 0, 2, 0x13, 1, 1, 0)
	body = append(binary.BigEndian.AppendUint16(body, uint16(len(extensions))), extensions...)
	message := append([]byte{messageClientHello, 0, byte(len(body) >> 8), byte(len(body))}, body...)
	return inRecords(append(make([]byte, recordHeader), message...), maxRecord)
}

func serverName(names ...string) []byte {
	var list []byte
	for _, n := range names {
		list = append(append(list, 0, byte(len(n)>>8), byte(len(n))), n...)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(list))), list...)
}

func TestFirst(t *testing.T) {
	plain := hello(t, &tls.Config{ServerName: "WWW.Example.org."})
	twice := serverName("a.example")
	twice = append(binary.BigEndian.AppendUint16(nil, extensionServerName), append([]byte{0, byte(len(twice))}, twice...)...)
	for name, tt := range map[string]struct {
		sent string
		want Words
		err  error
	}{
		"a hello":                      {string(plain), Words{Kind: TLS, Name: "www.example.org"}, nil},
		"with data behind":             {string(plain) + "more", Words{Kind: TLS, Name: "www.example.org"}, nil},
		"a byte in each record":        {string(inRecords(plain, 1)), Words{Kind: TLS, Name: "www.example.org"}, nil},
		"no name":                      {string(hello(t, &tls.Config{InsecureSkipVerify: true})), Words{Kind: TLS}, nil},
		"an address for a name":        {string(withExtension(0, serverName("192.0.2.7"))), Words{Kind: TLS}, nil},
		"encrypted, with an outer one": {string(withExtension(extensionEncrypted, []byte{0})), Words{Kind: TLS, Encrypted: true}, nil},
		"GREASE":                       {string(withExtension(0x0a0a, []byte{0})), Words{Kind: TLS}, nil},
		"two names":                    {string(withExtension(0, serverName("a.example", "b.example"))), Words{Kind: TLS, Name: "a.example"}, ErrMalformed},
		"two lists of names":           {string(withExtensions(append(twice, twice...))), Words{Kind: TLS, Name: "a.example"}, ErrMalformed},
		"an empty name":                {string(withExtension(0, serverName(""))), Words{Kind: TLS}, ErrMalformed},
		"a name with a NUL":            {string(withExtension(0, serverName("a\x00.example"))), Words{Kind: TLS}, ErrMalformed},
		"an extension past the end":    {string(withExtensions([]byte{0, 0, 0, 9})), Words{Kind: TLS}, ErrMalformed},
		"another message":              {"\x16\x03\x01\x00\x04\x02\x00\x00\x00", Words{Kind: TLS}, ErrMalformed},
		"another record within":        {"\x16\x03\x01\x00\x01\x01\x17\x03\x03\x00\x01x", Words{Kind: TLS}, ErrMalformed},
		"larger than it may be":        {"\x16\x03\x01\x00\x04\x01\x01\x00\x00", Words{Kind: TLS}, ErrTooLarge},
		"no record":                    {"\x16\x05 something", Words{}, nil},
		"an empty record":              {"\x16\x03\x01\x00\x00", Words{}, nil},
		"a tool of SSH's":              {"SSH-2.0-x\r\n", Words{}, nil},
		"bytes":                        {"\x05\x01\x00", Words{}, nil},
		"a request":                    {"GET / HTTP/1.1\r\nAccept: x\r\nhost:  Example.ORG:8080 \r\n\r\n", Words{Kind: HTTP, Name: "example.org"}, nil},
		"with bare line ends":          {"GET / HTTP/1.1\nHost: example.org\n\n", Words{Kind: HTTP, Name: "example.org"}, nil},
		"with a whole URL":             {"GET http://u@example.net:80/x HTTP/1.1\r\nHost: example.org\r\n\r\n", Words{Kind: HTTP, Name: "example.net"}, nil},
		"without a host":               {"GET / HTTP/1.0\r\n\r\n", Words{Kind: HTTP}, nil},
		"to an address":                {"GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", Words{Kind: HTTP}, nil},
		"two hosts":                    {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Words{Kind: HTTP}, ErrMalformed},
		"a host with a space":          {"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Words{Kind: HTTP}, ErrMalformed},
		"HTTP/2's preface":             {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Words{}, nil},
		"SMTP":                         {"EHLO client.example\r\n", Words{}, nil},
		"mail without a line's end":    {"MAIL FROM:<a@b>", Words{}, nil},
		"a word like a method":         {"GETX", Words{}, nil},
		"FTP":                          {"QUIT\r\n", Words{}, nil},
		"a head without an end":        {"GET / HTTP/1.1\r\nHost: a\r\nCookie: " + strings.Repeat("x", Most), Words{Kind: HTTP}, ErrTooLarge},
		"nothing":                      {"", Words{}, ErrShort},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := First([]byte(tt.sent))
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("%+v, %v; want %+v, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

// Whatever a beginning is cut to, it asks for more or says what the whole says.
func TestEveryCut(t *testing.T) {
	plain := hello(t, &tls.Config{ServerName: "example.org"})
	for _, whole := range [][]byte{plain, inRecords(plain, 7), []byte("GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")} {
		want, err := First(whole)
		if err != nil || want.Name != "example.org" {
			t.Fatalf("%+v, %v", want, err)
		}
		for n := range whole {
			if got, err := First(whole[:n]); !errors.Is(err, ErrShort) {
				t.Errorf("%d of %d bytes: %+v, %v", n, len(whole), got, err)
			}
		}
	}
}

// FuzzFirst: no beginning panics, none asks for more beyond the bound, and more
// bytes change nothing that was told already.
func FuzzFirst(f *testing.F) {
	plain := hello(f, &tls.Config{ServerName: "example.org"})
	for _, seed := range [][]byte{
		plain, inRecords(plain, 1), withExtension(extensionEncrypted, []byte{0}), withExtension(0, serverName("a.example", "b.example")),
		[]byte("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n"), []byte("\x16\x03\x01\x00\x04\x02\x00\x00\x00"), []byte("EHLO x\r\n"),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		words, err := First(b)
		if errors.Is(err, ErrShort) {
			if len(b) >= Most {
				t.Errorf("%d bytes are short", len(b))
			}
			return
		}
		if strings.ToLower(words.Name) != words.Name || strings.HasSuffix(words.Name, ".") {
			t.Errorf("the name %q is not plain", words.Name)
		}
		again, err2 := First(append(bytes.Clone(b), b...))
		if again != words || !errors.Is(err2, err) {
			t.Errorf("%+v, %v, and with more behind it %+v, %v", words, err, again, err2)
		}
	})
}

// What clients of the day really say first, which are files of the corpus: old
// versions, Chromium's with post-quantum keys and GREASE in 2 KB, and one without a
// name. Each is found whole in one segment and a byte at a time.
func TestClientsOfTheDay(t *testing.T) {
	const folder = "testdata/fuzz/FuzzFirst"
	for name, want := range map[string]Words{
		"chromium":         {Kind: TLS, Name: "capture.example", Encrypted: true}, // by GREASE
		"curl-openssl":     {Kind: TLS, Name: "capture.example"},
		"curl-tls12":       {Kind: TLS, Name: "capture.example"},
		"gnutls":           {Kind: TLS, Name: "capture.example"},
		"java":             {Kind: TLS, Name: "capture.example"},
		"node":             {Kind: TLS, Name: "capture.example"},
		"openssl-nameless": {Kind: TLS},
		"openssl-tls10":    {Kind: TLS, Name: "capture.example"},
		"python":           {Kind: TLS, Name: "capture.example"},
	} {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		_, quoted, _ := strings.Cut(strings.TrimSuffix(strings.TrimSpace(string(text)), ")"), "[]byte(")
		said, err := strconv.Unquote(quoted)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, err := First([]byte(said)); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, want)
		}
		for n := range said {
			if _, err := First([]byte(said[:n])); !errors.Is(err, ErrShort) {
				t.Errorf("%s: %d bytes of %d: %v", name, n, len(said), err)
			}
		}
	}
}
