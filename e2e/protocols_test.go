package e2e

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
)

// withUser asks for a password and gives the proxy a user.
const withUser = "[auth]\nuser = \"ann\"\npassword = \"s3cret\"\n"

var basicAnn = "Basic " + base64.StdEncoding.EncodeToString([]byte("ann:s3cret"))

func TestCurlSpeaksEveryProtocol(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	p := port(web.Listener.Addr().String())
	d := start(t, "")
	for name, tt := range map[string]struct {
		args     []string
		target   string
		protocol string
	}{
		"socks4":          {[]string{"--proxy", "socks4://" + d.address}, "127.0.0.1:" + p, "socks4"},
		"socks4a":         {[]string{"--proxy", "socks4a://" + d.address}, "localhost:" + p, "socks4"},
		"socks5":          {[]string{"--proxy", "socks5://" + d.address}, "127.0.0.1:" + p, "socks5"},
		"socks5h":         {[]string{"--proxy", "socks5h://" + d.address}, "localhost:" + p, "socks5"},
		"http":            {[]string{"--proxy", "http://" + d.address}, "localhost:" + p, "http"},
		"http, a tunnel":  {[]string{"--proxy", "http://" + d.address, "--proxytunnel"}, "localhost:" + p, "http"},
		"http/1.0 tunnel": {[]string{"--proxy", "http://" + d.address, "--proxytunnel", "--proxy1.0", d.address}, "localhost:" + p, "http"},
	} {
		t.Run(name, func(t *testing.T) {
			if out := mustCurl(t, append(tt.args, "http://localhost:"+p+"/")...); !strings.Contains(out, "hello from localhost") {
				t.Errorf("got %q", out)
			}
			if sum := sum(strings.NewReader(mustCurl(t, append(tt.args, "http://localhost:"+p+"/big")...))); sum != bigSum() {
				t.Errorf("the large body: %s", sum)
			}
			d.find("with the large body's bytes", func(l line) bool {
				out, _ := l["bytes_out"].(float64)
				return l.text("protocol") == tt.protocol && l.text("target") == tt.target && out > bigSize && l.text("reply") == "succeeded"
			})
		})
	}
}

func bigSum() string { return sum(bigBody()) }

// Clients that log in, those that ask first included. Being asked is no
// failed authentication; a wrong password is one.
func TestHTTPAuthentication(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	d := start(t, withUser)
	failed := func() string {
		return d.metric(`cleversocks_auth_total{method="password",outcome="failed"}`)
	}
	for name, args := range map[string][]string{
		"basic":             {"--proxy-user", "ann:s3cret", "--proxy-basic"},
		"any":               {"--proxy-user", "ann:s3cret", "--proxy-anyauth"},
		"basic, a tunnel":   {"--proxy-user", "ann:s3cret", "--proxy-basic", "--proxytunnel"},
		"any, a tunnel":     {"--proxy-user", "ann:s3cret", "--proxy-anyauth", "--proxytunnel"},
		"any, with a body":  {"--proxy-user", "ann:s3cret", "--proxy-anyauth", "--data", "x=y"},
		"lower-case scheme": {"--proxy-header", "Proxy-Authorization: " + strings.Replace(basicAnn, "Basic", "basic", 1)},
	} {
		if out, err := curl(t, append(args, "--proxy", "http://"+d.address, web.URL+"/")...); err != nil || !strings.Contains(out, "hello") {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
	if got := failed(); got != "0" {
		t.Errorf("%s failures among those who were right", got)
	}
	for _, how := range [][]string{{}, {"--proxytunnel"}} {
		args := append(how, "--proxy", "http://"+d.address, "--write-out", "%{http_code} %{http_connect}", "--output", "/dev/null", web.URL)
		if out, _ := curl(t, args...); !strings.Contains(out, "407") {
			t.Errorf("%v, nobody: %q, want 407", how, out)
		}
		if got := failed(); got != "0" {
			t.Errorf("%v: who only asked counts as %s failures", how, got)
		}
	}
	if out, _ := curl(t, "--proxy", "http://"+d.address, "--proxy-user", "ann:wrong", "--write-out", "%{http_code}", "--output", "/dev/null", web.URL); out != "407" {
		t.Errorf("a wrong password: %q", out)
	}
	if got := failed(); got != "1" {
		t.Errorf("a wrong password counts as %s failures", got)
	}
	l := d.waitLine("msg", "authentication failed")
	if l.text("user") != "ann" || l.text("client") != "127.0.0.1" || strings.Contains(d.log(), "s3cret") {
		t.Errorf("the log says %v", l)
	}
	d.find("of a user's request", func(l line) bool {
		return l["msg"] == "connection" && l.text("user") == "ann" && l.text("auth") == "password" && l.text("protocol") == "http"
	})
}

// A SOCKS4 user id proves nothing.
func TestSOCKS4Users(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	for name, toml := range map[string]string{"off": withUser, "on": withUser + "socks4_users = true\n"} {
		d := start(t, toml)
		for _, user := range []string{"", "ann@", "nobody@"} {
			// ann has a password, so that her name alone is not enough.
			if out, err := curl(t, "--proxy", "socks4://"+user+d.address, web.URL); err == nil {
				t.Errorf("socks4_users %s: %q came in: %q", name, user, out)
			}
		}
		l := d.find("that refuses", func(l line) bool { return l["msg"] == "connection" && l.text("protocol") == "socks4" })
		if l.text("cause") != "denied" || l.text("reply") != "not_allowed" {
			t.Errorf("recorded as %v", l)
		}
	}
}

// Each listener speaks what it was told to, and SIGHUP changes that.
func TestProtocolsOfAListener(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	p := freePort(t)
	toml := func(protocols string) string {
		return "[[listener]]\naddress = \"127.0.0.1:" + p + "\"\nprotocols = [" + protocols + "]\n[admin]\naddress = \"127.0.0.1:0\"\n"
	}
	config := writeFile(t, "c.toml", toml(`"http"`))
	d := startProgram(t, "--config", config, "--log-format", "json")
	works := func(scheme string) bool {
		_, err := curl(t, "--proxy", scheme+"://"+d.address, web.URL)
		return err == nil
	}
	if !works("http") || works("socks5") || works("socks4") {
		t.Error("not http alone")
	}
	rewrite(t, config, toml(`"socks4", "socks5"`))
	d.signal(syscall.SIGHUP)
	d.waitLine("generation", "2")
	if works("http") || !works("socks5") || !works("socks4") {
		t.Error("not socks4 and socks5 alone")
	}
}

// What Java's client does: it offers a password with the system's user and
// nothing in it, and takes "none" where that is chosen.
func TestJavaHandshake(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	open := start(t, "")
	c := dialProxy(t, open.address)
	send(t, c, 5, 2, 0, 2)
	if got := receive(t, c, 2); !bytes.Equal(got, []byte{5, 0}) {
		t.Fatalf("method % x", got)
	}
	if reply := request(t, c, 1, echo); reply != succeeded {
		t.Fatalf("reply %d", reply)
	}
	echoes(t, c, "java")

	closed := start(t, withUser)
	c = dialProxy(t, closed.address)
	send(t, c, 5, 2, 0, 2)
	if got := receive(t, c, 2); !bytes.Equal(got, []byte{5, 2}) {
		t.Fatalf("method % x", got)
	}
	send(t, c, 1, 4, 'r', 'o', 'o', 't', 0)
	if got := receive(t, c, 2); got[1] == 0 {
		t.Fatalf("status % x", got)
	}
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after the refusal: %d bytes, %v", n, err)
	}
}

// httpAnswer sends bytes and reads one answer whole.
func httpAnswer(t *testing.T, c net.Conn, r *bufio.Reader, method, sent string) (status int, body string, res *http.Response) {
	t.Helper()
	if _, err := io.WriteString(c, sent); err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("answer to %.60q: %v", sent, err)
	}
	if method == http.MethodConnect && res.StatusCode == http.StatusOK {
		return res.StatusCode, "", res // what follows is the tunnel's
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b), res
}

// Whatever two parsers could read apart is refused, with a line that says why.
func TestMalformedHTTP(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	host := web.Listener.Addr().String()
	d := start(t, "")
	before := d.baseline()
	get := "GET http://" + host + "/ HTTP/1.1\r\nHost: " + host + "\r\n"
	post := "POST http://" + host + "/sum HTTP/1.1\r\nHost: " + host + "\r\n"
	for name, tt := range map[string]struct {
		send string
		want int
	}{
		"both lengths":             {post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		"two lengths":              {post + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400},
		"a signed length":          {post + "Content-Length: +3\r\n\r\nabc", 400},
		"an odd coding":            {post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400},
		"a coding with a blank":    {post + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400},
		"a folded field":           {get + "X: a\r\n b\r\n\r\n", 400},
		"a bare LF":                {strings.Replace(get, "\r\n", "\n", 1) + "\r\n", 400},
		"a bare CR":                {get + "X: a\rb\r\n\r\n", 400},
		"a NUL":                    {get + "X: a\x00b\r\n\r\n", 400},
		"no colon":                 {get + "nonsense\r\n\r\n", 400},
		"two hosts":                {get + "Host: other.example\r\n\r\n", 400},
		"no host":                  {"GET http://" + host + "/ HTTP/1.1\r\n\r\n", 400},
		"origin-form":              {"GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n", 400},
		"https in the clear":       {"GET https://" + host + "/ HTTP/1.1\r\nHost: " + host + "\r\n\r\n", 400},
		"two users in the target":  {"GET http://me@other.example:x@" + host + "/ HTTP/1.1\r\nHost: " + host + "\r\n\r\n", 400},
		"a version not there":      {"GET http://" + host + "/ HTTP/3.0\r\n\r\n", 400},
		"CONNECT without a port":   {"CONNECT " + "127.0.0.1" + " HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"CONNECT, port 0":          {"CONNECT 127.0.0.1:0 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"CONNECT with a body":      {"CONNECT " + host + " HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 400},
		"credentials not base64":   {"CONNECT " + host + " HTTP/1.1\r\nProxy-Authorization: Basic !!\r\n\r\n", 400},
		"a head too long":          {get + "X: " + strings.Repeat("a", 66000) + "\r\n\r\n", 431},
		"too many fields":          {get + strings.Repeat("X: a\r\n", 1001) + "\r\n", 431},
		"a line without an end":    {"GET http://" + strings.Repeat("a", 66000), 431},
		"a body too large to say":  {post + "Content-Length: 99999999999999999999\r\n\r\n", 413},
		"itself":                   {"GET http://" + d.address + "/ HTTP/1.1\r\nHost: x\r\n\r\n", 403},
		"itself, a tunnel":         {"CONNECT " + d.address + " HTTP/1.1\r\nHost: x\r\n\r\n", 403},
		"nobody there":             {"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: x\r\n\r\n", 502},
		"nobody there, plain":      {"GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n", 502},
		"a name that is not there": {"CONNECT no.such.name.invalid:80 HTTP/1.1\r\nHost: x\r\n\r\n", 502},
		"no route":                 {"CONNECT 203.0.113.1:80 HTTP/1.1\r\nHost: x\r\n\r\n", 502},
		"a chunk size that is none, after the head": {post + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
	} {
		t.Run(name, func(t *testing.T) {
			c := dialProxy(t, d.address)
			defer c.Close()
			method, _, _ := strings.Cut(tt.send, " ")
			r := bufio.NewReader(c)
			status, body, _ := httpAnswer(t, c, r, strings.Replace(method, "CONNECT", "GET", 1), tt.send)
			if status != tt.want || strings.Count(body, "\n") != 1 || len(body) < 10 {
				t.Errorf("%d %q, want %d and one line", status, body, tt.want)
			}
			if status != 502 && status != 403 || method == "CONNECT" {
				if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
					t.Errorf("behind the answer: %q, %v", rest, err)
				}
			}
		})
	}
	d.backTo(before)
}

// A head that takes longer than the handshake may is answered 408, one for
// which a gateway waits 504.
func TestSlowHTTP(t *testing.T) {
	d := start(t, "[limits]\nhandshake_timeout = \"1s\"\nconnect_timeout = \"1s\"\n")
	c := dialProxy(t, d.address)
	r := bufio.NewReader(c)
	if status, body, _ := httpAnswer(t, c, r, "GET", "GET http://127.0.0.1/ HTTP/1.1\r\nHost: "); status != 408 || strings.Count(body, "\n") != 1 {
		t.Errorf("a slow head: %d %q", status, body)
	}
	if l := d.find("of it", func(l line) bool { return l["msg"] == "connection" }); l.text("cause") != "handshake_timeout" {
		t.Errorf("cause %s", l.text("cause"))
	}
	// Nobody answers on the other end of the pair, whose address nobody has.
	c = dialProxy(t, d.address)
	if status, body, _ := httpAnswer(t, c, bufio.NewReader(c), "GET", "CONNECT 192.0.2.200:80 HTTP/1.1\r\nHost: x\r\n\r\n"); status != 504 || strings.Count(body, "\n") != 1 {
		t.Errorf("no answer: %d %q", status, body)
	}
}

// Bytes behind the head, in one segment with it, are the tunnel's.
func TestPipelinedBytesArrive(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	d := start(t, "")
	ip := echo.Addr().As4()
	for name, tt := range map[string]struct {
		send  []byte
		reply int
	}{
		"socks5":  {append(append([]byte{5, 1, 0, 5, 1, 0, 1}, ip[:]...), byte(echo.Port()>>8), byte(echo.Port())), 12},
		"socks4":  {append(append([]byte{4, 1, byte(echo.Port() >> 8), byte(echo.Port())}, ip[:]...), 'm', 'e', 0), 8},
		"socks4a": {append([]byte{4, 1, byte(echo.Port() >> 8), byte(echo.Port()), 0, 0, 0, 9, 'm', 'e', 0}, "localhost\x00"...), 8},
		"http":    {fmt.Appendf(nil, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", echo, echo), len("HTTP/1.1 200 Connection established\r\n\r\n")},
	} {
		c := dialProxy(t, d.address)
		send(t, c, append(tt.send, "first bytes"...)...)
		receive(t, c, tt.reply)
		if got := receive(t, c, 11); string(got) != "first bytes" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// Plain requests and then a CONNECT on one connection, each with a record of
// its own; the user is asked for once.
func TestHTTPConnectionServesManyRequests(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	host := web.Listener.Addr().String()
	echo := echoServer(t, "127.0.0.1:0")
	d := start(t, withUser)
	c := dialProxy(t, d.address)
	r := bufio.NewReader(c)
	auth := "Proxy-Authorization: " + basicAnn + "\r\n"
	get := "GET http://" + host + "/ HTTP/1.1\r\nHost: " + host + "\r\n"
	if status, _, res := httpAnswer(t, c, r, "GET", get+"\r\n"); status != 407 || res.Header.Get("Proxy-Authenticate") == "" {
		t.Fatalf("nobody: %d %v", status, res.Header)
	}
	for range 2 {
		if status, body, _ := httpAnswer(t, c, r, "GET", get+auth+"\r\n"); status != 200 || !strings.Contains(body, "hello") {
			t.Fatalf("%d %q", status, body)
		}
	}
	if status, _, _ := httpAnswer(t, c, r, "GET", get+"\r\n"); status != 407 {
		t.Fatalf("a request of nobody's between them: %d", status)
	}
	connect := fmt.Sprintf("CONNECT %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", echo, echo, auth)
	if status, _, _ := httpAnswer(t, c, r, "CONNECT", connect); status != 200 {
		t.Fatalf("CONNECT: %d", status)
	}
	echoes(t, c, "through the tunnel")
	c.Close()
	if l := d.record(echo.String()); l.text("bytes_in") != "18" || l.text("bytes_out") != "18" || l.text("user") != "ann" {
		t.Errorf("the tunnel's record: %v", l)
	}
	plain := 0
	for _, l := range d.Lines() {
		if l["msg"] == "connection" && l.Text("target") == host && l.Text("reply") == "succeeded" && l.Text("host_ip") == host {
			plain++
		}
	}
	if plain != 2 {
		t.Errorf("%d records of plain requests, want 2", plain)
	}
}

// A drain waits for the response under way and ends an idle connection.
func TestDrainEndsHTTPKeepAlive(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	d := start(t, "")
	c := dialProxy(t, d.address)
	r := bufio.NewReader(c)
	httpAnswer(t, c, r, "GET", "GET "+web.URL+"/ HTTP/1.1\r\nHost: x\r\n\r\n")
	d.signal(syscall.SIGTERM)
	if code := d.exitCode(); code != 0 { // within patience: drain.timeout is longer
		t.Errorf("exit %d", code)
	}
}

// socks4Request is a SOCKS4 request for an address, and the answer.
func socks4Request(t *testing.T, c net.Conn, command byte, to netip.AddrPort) (code byte, bound netip.AddrPort) {
	t.Helper()
	ip := to.Addr().As4()
	send(t, c, append(append([]byte{4, command, byte(to.Port() >> 8), byte(to.Port())}, ip[:]...), 0)...)
	return socks4Reply(t, c)
}

func socks4Reply(t *testing.T, c net.Conn) (code byte, bound netip.AddrPort) {
	t.Helper()
	b := receive(t, c, 8)
	if b[0] != 0 {
		t.Fatalf("reply % x", b)
	}
	return b[1], netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3]))
}

func TestMalformedSOCKS4(t *testing.T) {
	d := start(t, "")
	refusal := []byte{0, 91, 0, 0, 0, 0, 0, 0}
	for name, msg := range map[string][]byte{
		"unknown command":  {4, 9, 0, 80, 127, 0, 0, 1, 0},
		"port 0":           {4, 1, 0, 0, 127, 0, 0, 1, 0},
		"user id too long": append([]byte{4, 1, 0, 80, 127, 0, 0, 1}, bytes.Repeat([]byte("u"), 300)...),
		"name too long":    append([]byte{4, 1, 0, 80, 0, 0, 0, 1, 0}, bytes.Repeat([]byte("n"), 300)...),
		"empty name":       {4, 1, 0, 80, 0, 0, 0, 1, 0, 0},
		"refused":          {4, 1, 0, 1, 127, 0, 0, 1, 0},
		"nobody":           {4, 1, 0, 80, 0, 0, 0, 0, 0},
	} {
		c := dialProxy(t, d.address)
		send(t, c, msg...)
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, refusal) {
			t.Errorf("%s: % x, %v", name, got, err)
		}
	}
}
