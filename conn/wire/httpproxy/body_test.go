package httpproxy_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http/httputil"
	"strings"
	"testing"

	"cleversocks/conn/wire/httpproxy"
)

// FuzzChunked feeds a client's chunked body to the reader: what it takes for a
// whole one, another parser reads to the same end and with the same content.
func FuzzChunked(f *testing.F) {
	f.Add([]byte("3\r\nabc\r\n0\r\n\r\n"))
	f.Add([]byte("3;x\r\nabc\r\n0\r\nA: b\r\n\r\nGET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bufio.NewReader(bytes.NewReader(in))
		body := (&httpproxy.Head{Chunked: true}).Body(r)
		content, err := io.ReadAll(body)
		if err != nil {
			return
		}
		rest, _ := io.ReadAll(r)
		other := bufio.NewReader(bytes.NewReader(in))
		theirs, err := io.ReadAll(httputil.NewChunkedReader(other))
		if err != nil || !bytes.Equal(content, theirs) {
			t.Fatalf("%q here, %q there, %v", content, theirs, err)
		}
		if left, _ := io.ReadAll(other); !bytes.HasSuffix(left, rest) {
			t.Fatalf("%q left here, %q there", rest, left)
		}
	})
}

// A lenient reader never takes in more than what was sent, nor loops.
func FuzzReadAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), "GET")
	f.Add([]byte("HTTP/1.0 200\nX: a\n b\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n"), "GET")
	f.Fuzz(func(t *testing.T, in []byte, method string) {
		r := bufio.NewReader(bytes.NewReader(in))
		a, err := new(httpproxy.HeadReader).ReadAnswer(r, method)
		if err != nil {
			return
		}
		content, _ := io.ReadAll(a.Body(r))
		if a.Size+len(content) > len(in) || a.Status < 100 || a.Status > 999 {
			t.Fatalf("%d and %d bytes of %d, status %d", a.Size, len(content), len(in), a.Status)
		}
		for _, f := range a.Fields {
			if strings.ContainsAny(f.Name+f.Value, "\r\n\x00") {
				t.Fatalf("field %q: %q", f.Name, f.Value)
			}
		}
	})
}

// Many large heads at a time are bounded in all, and what they took comes back
// however they end.
func TestBudget(t *testing.T) {
	budget := httpproxy.NewBudget(100<<10, nil)
	large := "GET http://a/ HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 60<<10) + "\r\n"
	for range 10 {
		first := httpproxy.HeadReader{Budget: budget}
		head, err := first.Read(bufio.NewReader(strings.NewReader(large + "\r\n")))
		if err != nil {
			t.Fatal(err)
		}
		second := httpproxy.HeadReader{Budget: budget}
		if _, err = second.Read(bufio.NewReader(strings.NewReader(large + "\r\n"))); status(err) != 503 {
			t.Fatalf("the second: %v", err)
		}
		second.Release()
		head.Release()
		head.Release()
		third := httpproxy.HeadReader{Budget: budget}
		if _, err = third.Read(bufio.NewReader(strings.NewReader(large))); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("the third: %v", err)
		}
		third.Release()
		bad := httpproxy.HeadReader{Budget: budget}
		if _, err = bad.Read(bufio.NewReader(strings.NewReader(large + "bad line\r\n\r\n"))); status(err) != 400 {
			t.Fatalf("the bad one: %v", err)
		}
		bad.Release()
	}
}
