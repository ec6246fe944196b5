package httpforward

import (
	"bufio"
	"bytes"
	"io"
	"net/http/httputil"
	"testing"

	"cleversocks/conn/wire/httpproxy"
)

// FuzzChunked feeds a chunked body to the reader that stands in front of the
// server: what it lets through, another parser reads to the same end.
func FuzzChunked(f *testing.F) {
	f.Add([]byte("3\r\nabc\r\n0\r\n\r\n"))
	f.Add([]byte("3;x\r\nabc\r\n0\r\nA: b\r\n\r\nGET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		c := newClientConn(nil, bufio.NewReader(bytes.NewReader(in)), &httpproxy.Head{Chunked: true, Raw: []byte{}})
		c.inFlight.Store(false) // nothing waits for a response here
		var body []byte
		for c.at != partHead {
			b := make([]byte, 7)
			n, err := c.Read(b)
			body = append(body, b[:n]...)
			if err != nil {
				return
			}
		}
		body = append(body, c.pending...)
		r := bufio.NewReader(bytes.NewReader(body))
		if _, err := io.ReadAll(httputil.NewChunkedReader(r)); err != nil {
			t.Fatalf("let through %q: %v", body, err)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "\r\n" {
			t.Fatalf("behind the body: %q", rest)
		}
	})
}
