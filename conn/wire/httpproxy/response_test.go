package httpproxy_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
)

// TestResponsesParse reads each response as a client would: two in a row on
// one connection, so that a wrong length shows.
func TestResponsesParse(t *testing.T) {
	tests := map[string]struct {
		b    []byte
		want int
		keep bool
	}{
		"407":       {httpproxy.AppendAuthRequired(nil, httpproxy.Challenges{httpproxy.Basic(`cle"ver`)}, true), 407, true},
		"403":       {httpproxy.AppendError(nil, 403, httpproxy.Reason(wire.ReplyNotAllowed), false), 403, false},
		"502":       {httpproxy.AppendError(nil, 502, httpproxy.Reason(wire.ReplyConnectionRefused), false), 502, false},
		"504 keeps": {httpproxy.AppendError(nil, 504, httpproxy.Reason(wire.ReplyTTLExpired), true), 504, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := bufio.NewReader(bytes.NewReader(append(tt.b, tt.b...)))
			for range 2 {
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil || resp.StatusCode != tt.want || resp.Close == tt.keep {
					t.Errorf("status %d close %v, %v", resp.StatusCode, resp.Close, err)
				}
				if strings.Count(string(body), "\n") != 1 {
					t.Errorf("body %q is not one line", body)
				}
				if tt.want == 407 && resp.Header.Get("Proxy-Authenticate") != `Basic realm="clever", charset="UTF-8"` {
					t.Errorf("challenge %q", resp.Header.Get("Proxy-Authenticate"))
				}
			}
		})
	}
}

func TestEstablished(t *testing.T) {
	r := bytes.NewReader(httpproxy.AppendEstablished(nil, ""))
	if status, err := httpproxy.ReadConnectReply(r); status != http.StatusOK || err != nil || r.Len() != 0 {
		t.Errorf("%d, %v, %d bytes left", status, err, r.Len())
	}
}

func TestStatus(t *testing.T) {
	want := map[wire.ReplyCode]int{
		wire.ReplySucceeded: 200, wire.ReplyNotAllowed: 403, wire.ReplyTTLExpired: 504,
		wire.ReplyNetworkUnreachable: 502, wire.ReplyHostUnreachable: 502, wire.ReplyConnectionRefused: 502,
		wire.ReplyGeneralFailure: 502, wire.ReplyAddressTypeNotSupported: 502, wire.ReplyCommandNotSupported: 501,
	}
	for code, status := range want {
		if got := httpproxy.Status(code); got != status {
			t.Errorf("%v: %d, want %d", code, got, status)
		}
	}
}

func TestReadConnectReply(t *testing.T) {
	tests := map[string]struct {
		in   string
		want int
		err  error
	}{
		"200":       {in: "HTTP/1.1 200 Connection established\r\n\r\n", want: 200},
		"no reason": {in: "HTTP/1.0 200\r\n\r\n", want: 200},
		"fields":    {in: "HTTP/1.1 403 Forbidden\r\nA: b\r\n\r\r\nc: d\r\n\r\n", want: 403},
		// Peers read parents' answers so, and ours failed.
		"bare LF":      {in: "HTTP/1.0 200 OK\n\n", want: 200},
		"shortest":     {in: "HTTP/1.1 200\n\n", want: 200},
		"mixed":        {in: "HTTP/1.1 200 OK\r\nA: b\n\r\n", want: 200},
		"mixed, too":   {in: "HTTP/1.1 200 OK\nA: b\r\n\n", want: 200},
		"too short":    {in: "HTTP/1.1 20\n\n", err: httpproxy.ErrMalformedReply},
		"interim":      {in: "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", want: 200},
		"ever interim": {in: strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 10), err: httpproxy.ErrMalformedReply},
		"SOCKS5":       {in: "\x05\xff\x00\x00", err: httpproxy.ErrMalformedReply},
		"SSH":          {in: "SSH-2.0-OpenSSH_9.2\r\n\r\n", err: httpproxy.ErrMalformedReply},
		"status":       {in: "HTTP/1.1 2x0 OK\r\n\r\n", err: httpproxy.ErrMalformedReply},
		"status 999":   {in: "HTTP/1.1 999 OK\r\n\r\n", err: httpproxy.ErrMalformedReply},
		"HTTP/1.":      {in: "HTTP/1.\r\n\r\n", err: httpproxy.ErrMalformedReply},
		"cut":          {in: "HTTP/1.1 200 OK\r\n", err: io.ErrUnexpectedEOF},
		"endless":      {in: "HTTP/1.1 200 " + strings.Repeat("x", httpproxy.MaxHead), err: httpproxy.ErrMalformedReply},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			const tunnel = "tunnel bytes"
			r := strings.NewReader(tt.in + tunnel)
			if errors.Is(tt.err, io.ErrUnexpectedEOF) {
				r = strings.NewReader(tt.in)
			}
			got, err := httpproxy.ReadConnectReply(iotest.OneByteReader(r))
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Fatalf("%d, %v", got, err)
			}
			if rest, _ := io.ReadAll(r); err == nil && string(rest) != tunnel {
				t.Errorf("left %q of the tunnel", rest)
			}
		})
	}
}

func TestReplyCode(t *testing.T) {
	want := map[int]wire.ReplyCode{
		200: wire.ReplySucceeded, 204: wire.ReplySucceeded, 403: wire.ReplyNotAllowed, 404: wire.ReplyHostUnreachable,
		407: wire.ReplyGeneralFailure, 500: wire.ReplyGeneralFailure, 502: wire.ReplyHostUnreachable,
		503: wire.ReplyConnectionRefused, 504: wire.ReplyTTLExpired, 302: wire.ReplyGeneralFailure,
	}
	for status, code := range want {
		if got := httpproxy.ReplyCode(status); got != code {
			t.Errorf("%d: %v, want %v", status, got, code)
		}
	}
}

func TestCredentialsPrintNothing(t *testing.T) {
	c := httpproxy.Credentials{User: "alice", Password: "hunter2"}
	for _, s := range []string{fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", &c), fmt.Sprintf("%v", []any{c})} {
		if strings.Contains(s, "hunter2") {
			t.Errorf("secret in %q", s)
		}
	}
}

func FuzzReadConnectReply(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 Connection established\r\n\r\ntunnel"))
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 502 Bad\r\nA: b\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		status, err := httpproxy.ReadConnectReply(r)
		if err != nil {
			return
		}
		read := in[:len(in)-r.Len()]
		if status < 200 || !bytes.HasSuffix(read, []byte("\n\n")) && !bytes.HasSuffix(read, []byte("\n\r\n")) {
			t.Fatalf("status %d after %q", status, read)
		}
	})
}
