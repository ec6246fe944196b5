package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// curl runs curl through a proxy URL and returns what it printed.
func curl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience) // it has large pages, too
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t, "curl", "curl"), append([]string{"--silent", "--show-error", "--max-time", "50", "--noproxy", ""}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// mustCurl is curl that has to succeed.
func mustCurl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := curl(t, args...)
	if err != nil {
		t.Fatalf("curl %v: %v", args, err)
	}
	return out
}

// origin is a web server on an address of the test's. "/" greets, "/big"
// sends bytes whose SHA-256 is bigSum, "/sum" answers with that of a body.
func origin(t *testing.T, address string) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, "<title>origin</title><p id=greeting>hello from %s</p>", r.Host)
	})
	mux.HandleFunc("/big", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.Copy(w, bigBody()) })
	mux.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, sum(r.Body)) })
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: mux, ReadHeaderTimeout: patience}}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

const bigSize = 24 << 20

// bigBody is 24 MiB that do not repeat within a pipe's size.
func bigBody() io.Reader {
	var n uint64
	return io.LimitReader(readerFunc(func(p []byte) (int, error) {
		for i := range p {
			p[i] = byte(n*2654435761>>13) ^ byte(n>>16)
			n++
		}
		return len(p), nil
	}), bigSize)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func sum(r io.Reader) string {
	h := sha256.New()
	n, _ := io.Copy(h, r)
	return fmt.Sprintf("%d %s", n, hex.EncodeToString(h.Sum(nil)))
}

func port(address string) string {
	_, p, _ := net.SplitHostPort(address)
	return p
}

// tcpServer is a destination that serve has each connection of, until it returns.
func tcpServer(t *testing.T, address string, serve func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", address)
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
			go func() {
				defer c.Close()
				serve(c.(*net.TCPConn))
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// echoServer sends back what it gets, half-close included.
func echoServer(t *testing.T, address string) netip.AddrPort {
	t.Helper()
	return tcpServer(t, address, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
}

// dialProxy is a bare connection to the proxy, closed with the test.
func dialProxy(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// connect speaks SOCKS5 without authentication up to the reply, and returns
// the connection and the reply code.
func connect(t *testing.T, proxy string, to netip.AddrPort) (*net.TCPConn, byte) {
	t.Helper()
	c := dialProxy(t, proxy)
	send(t, c, 5, 1, 0)
	if got := receive(t, c, 2); got[1] != 0 {
		t.Fatalf("method %#x", got[1])
	}
	return c, request(t, c, 1, to)
}

// request sends a request for an address and reads its reply.
func request(t *testing.T, c net.Conn, command byte, to netip.AddrPort) byte {
	t.Helper()
	msg := []byte{5, command, 0, 1}
	if to.Addr().Is6() {
		msg[3] = 4
	}
	msg = append(msg, to.Addr().AsSlice()...)
	send(t, c, append(msg, byte(to.Port()>>8), byte(to.Port()))...)
	return readReply(t, c)
}

func readReply(t *testing.T, c net.Conn) byte {
	t.Helper()
	head := receive(t, c, 4)
	if head[0] != 5 || head[2] != 0 {
		t.Fatalf("reply % x", head)
	}
	length := map[byte]int{1: 4, 4: 16}[head[3]]
	if length == 0 {
		t.Fatalf("address type %d in a reply", head[3])
	}
	receive(t, c, length+2)
	return head[1]
}

// send and receive have a patience of their own: a conn may be old by then.
func send(t *testing.T, c net.Conn, b ...byte) {
	t.Helper()
	_ = c.SetWriteDeadline(time.Now().Add(patience))
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, c net.Conn, n int) []byte {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatalf("read %d bytes: %v", n, err)
	}
	return b
}

// echoes proves that a tunnel to an echo server carries bytes.
func echoes(t *testing.T, c net.Conn, text string) {
	t.Helper()
	send(t, c, []byte(text)...)
	if got := receive(t, c, len(text)); string(got) != text {
		t.Fatalf("echo %q, want %q", got, text)
	}
}

// dialProxyFrom is dialProxy from a source address.
func dialProxyFrom(t *testing.T, address, source string) *net.TCPConn {
	t.Helper()
	dialer := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	c, err := dialer.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// login speaks SOCKS5 with a password up to the request.
func login(t *testing.T, proxy, source, user, password string) *net.TCPConn {
	t.Helper()
	c := dialProxyFrom(t, proxy, source)
	send(t, c, 5, 1, 2)
	if got := receive(t, c, 2); got[1] != 2 {
		t.Fatalf("method %#x", got[1])
	}
	msg := append([]byte{1, byte(len(user))}, user...)
	send(t, c, append(append(msg, byte(len(password))), password...)...)
	if got := receive(t, c, 2); got[1] != 0 {
		t.Fatalf("%s is not let in: status %d", user, got[1])
	}
	return c
}

// api asks the management API with a token; "" brings none.
func (d *daemon) api(method, path, token string) (status int, body string) {
	d.t.Helper()
	req, err := http.NewRequest(method, "http://"+d.admin+path, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}
