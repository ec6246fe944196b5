package trial

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// answering is a proxy that says something to whoever comes, and hangs up.
func answering(t *testing.T, answer string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, answer)
			_ = c.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	return l.Addr().String()
}

// Whatever a server says, a trial ends with a sentence about it.
func TestOddServers(t *testing.T) {
	const granted = "\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50"
	for _, tt := range []struct{ protocol, answer, user, step, says string }{
		{"socks5", "", "", "greeting", "the proxy closed the connection"},
		{"socks5", "HTTP/1.1 400 Bad Request\r\n\r\n", "", "greeting", "the answer is not SOCKS5"},
		{"socks5", "\x05\xff", "", "greeting", "wants a log-in"},
		{"socks5", "\x05\x01", "a", "greeting", "neither a password nor none"},
		{"socks5", "\x05\x02\x01\x01", "a", "login", "refuses user and password"},
		{"socks5", "\x05\x00\x05", "", "request", "the proxy closed the connection"},
		{"socks5", "\x05\x00\x05\x00\x00\x09\x00\x00", "", "request", "the reply is not SOCKS5"},
		{"socks5", "\x05\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00", "", "request", "the proxy replies not_allowed"},
		{"socks5", granted, "", "first_byte", "the target closed the connection"},
		{"socks5", granted + "220 mail\r\n", "", "first_byte", ""},
		{"socks4", "\x00\x5b\x00\x00\x00\x00\x00\x00", "", "request", "refuses the request"},
		{"socks4", "nonsense", "", "request", "reply version"},
		{"http", "SSH-2.0-x\r\n", "", "request", "does not begin with HTTP/1"},
		{"http", "HTTP/1.1 403 Forbidden\r\n\r\n", "", "request", "the proxy answers 403"},
		{"http", "HTTP/1.1 407 x\r\n\r\n", "", "request", "wants a log-in"},
		{"telnet", "", "", "connect", "no protocol"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		to, err := ParseTarget("example.com:80")
		if err != nil {
			t.Fatal(err)
		}
		heard := 0
		r := Run(ctx, Options{Protocol: tt.protocol, Address: answering(t, tt.answer), User: tt.user, Password: "p", To: to, FirstByte: true}, func(Step) { heard++ })
		cancel()
		last := r.Steps[len(r.Steps)-1]
		if last.Name != tt.step || r.OK != (tt.says == "") || !strings.Contains(r.Error, tt.says) || heard != len(r.Steps) {
			t.Errorf("%s, %q: %+v", tt.protocol, tt.answer, r)
		}
	}
	for _, text := range []string{"x", "x:", "x:0", "x:65536", ":1", "[::1"} {
		if _, err := ParseTarget(text); err == nil {
			t.Errorf("%q is a target", text)
		}
	}
}
