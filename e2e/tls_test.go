package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

func TestTLSClients(t *testing.T) {
	web, ca := origin(t, "127.0.0.1:0"), newAuthority(t)
	d := start(t, ca.tlsListener(""))
	p := port(d.address)
	for name, args := range map[string][]string{
		"plain request": nil, "CONNECT": {"--proxytunnel"},
	} {
		args = append(args, "--proxy-cacert", ca.path("ca.pem"), "--proxy", "https://localhost:"+p, web.URL+"/")
		if out := mustCurl(t, args...); !strings.Contains(out, "hello from") {
			t.Errorf("%s: %q", name, out)
		}
	}
	upload, err := os.ReadFile(ca.path("ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if got := mustCurl(t, "--proxytunnel", "--proxy-cacert", ca.path("ca.pem"), "--proxy", "https://localhost:"+p, "-T", ca.path("ca.pem"), web.URL+"/sum"); got != sum(bytes.NewReader(upload)) {
		t.Errorf("an upload's sum: %q", got)
	}

	// SOCKS over TLS, as a client of stunnel's has it.
	conf := writeFile(t, "stunnel.conf", fmt.Sprintf(
		"foreground = yes\npid =\nsyslog = no\n[socks]\nclient = yes\naccept = 127.0.0.1:14443\nconnect = %s\nCAfile = %s\nverifyChain = yes\n",
		d.address, ca.path("ca.pem")))
	stunnel := exec.Command(program(t, "stunnel4", "stunnel4"), conf)
	if err := stunnel.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stunnel.Process.Kill(); _ = stunnel.Wait() })
	awaitPort(t, "127.0.0.1:14443")
	if out := mustCurl(t, "--proxy", "socks5h://127.0.0.1:14443", web.URL+"/"); !strings.Contains(out, "hello from") {
		t.Errorf("through stunnel: %q", out)
	}
	d.find("of stunnel's client", func(l line) bool { return l.text("msg") == "connection" && l.text("protocol") == "socks5" })
}

// A half-close must pass through TLS both ways, and the bytes behind it.
func TestTLSHalfClose(t *testing.T) {
	ca := newAuthority(t)
	d := start(t, ca.tlsListener(""))
	shouting := tcpServer(t, "127.0.0.1:0", func(c *net.TCPConn) {
		all, _ := io.ReadAll(c)
		_, _ = c.Write(bytes.ToUpper(all))
	})
	c, err := ca.tlsDial(d.address)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n", shouting)
	head := make([]byte, len("HTTP/1.1 200"))
	if _, err := io.ReadFull(c, head); err != nil || string(head) != "HTTP/1.1 200" {
		t.Fatalf("%q, %v", head, err)
	}
	if _, err := io.WriteString(c, "quiet"); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(c)
	if err != nil || !strings.HasSuffix(string(rest), "QUIET") {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestClientCertificates(t *testing.T) {
	web, ca := origin(t, "127.0.0.1:0"), newAuthority(t)
	ca.issue("alice", "alice")
	ca.issue("billing", "spiffe://example.org/billing")
	mallory := ca.issue("mallory", "mallory")
	ca.revoke()
	d := start(t, ca.tlsListener("")+fmt.Sprintf("client_ca = %q\ncrl = %q\n", ca.path("ca.pem"), ca.path("crl.pem"))+`
[reload]
revoke = true
[[user]]
name = "alice"
groups = ["staff"]
[[acl.rule]]
action = "allow"
groups = ["staff"]
to = ["127.0.0.0/8"]
[[acl.rule]]
action = "allow"
users = ["spiffe://example.org/billing", "mallory"]
to = ["127.0.0.0/8"]
[[acl.rule]]
action = "deny"
`)
	get := func(file string) (string, error) {
		args := []string{"--proxytunnel", "--proxy-cacert", ca.path("ca.pem"), "--proxy", "https://localhost:" + port(d.address)}
		if file != "" {
			args = append(args, "--proxy-cert", ca.path(file+".crt"), "--proxy-key", ca.path(file+".key"))
		}
		return curl(t, append(args, web.URL+"/")...)
	}
	for file, user := range map[string]string{"alice": "alice", "billing": "spiffe://example.org/billing", "mallory": "mallory"} {
		if out, err := get(file); err != nil || !strings.Contains(out, "hello from") {
			t.Errorf("%s: %v %q", file, err, out)
		}
		d.find("of "+user, func(l line) bool {
			return l.text("msg") == "connection" && l.text("user") == user && l.text("auth") == "certificate"
		})
	}
	if out, err := get(""); err == nil {
		t.Errorf("without a certificate: %q", out)
	}
	// What mallory has open ends with the certificate, and nobody else's.
	echo := echoServer(t, "127.0.0.1:0")
	tunnel := func(file string) net.Conn {
		pair, err := tls.LoadX509KeyPair(ca.path(file+".crt"), ca.path(file+".key"))
		if err != nil {
			t.Fatal(err)
		}
		c, err := ca.tlsDial(d.address, pair)
		if err != nil {
			t.Fatal(err)
		}
		send(t, c, 5, 1, 0)
		receive(t, c, 2)
		if code := request(t, c, 1, echo); code != succeeded {
			t.Fatalf("%s: reply %d", file, code)
		}
		echoes(t, c, file)
		return c
	}
	hers, theirs := tunnel("alice"), tunnel("mallory")
	ca.revoke(mallory)
	d.waitMessage("TLS files read again")
	if rest, err := io.ReadAll(theirs); len(rest) > 0 {
		t.Errorf("mallory's tunnel goes on: %q, %v", rest, err)
	}
	d.find("of the end of mallory's tunnel", func(l line) bool {
		return l.text("msg") == "session revoked" && l.text("user") == "mallory" && l.text("rule") == "crl"
	})
	echoes(t, hers, "alice's goes on")
	if out, err := get("mallory"); err == nil {
		t.Errorf("revoked: %q", out)
	}
	if out, err := get("alice"); err != nil {
		t.Errorf("alice, after another's revocation: %v %q", err, out)
	}
	if n := d.metric(`cleversocks_tls_handshakes_total{outcome="refused"}`); n == "0" {
		t.Error("refused certificates are not counted")
	}
}

// A certificate is replaced on SIGHUP; connections that are open go on.
func TestCertificateReload(t *testing.T) {
	ca := newAuthority(t)
	echo := echoServer(t, "127.0.0.1:0")
	d := start(t, ca.tlsListener(""))
	c, err := ca.tlsDial(d.address)
	if err != nil {
		t.Fatal(err)
	}
	send(t, c, 5, 1, 0)
	receive(t, c, 2)
	if code := request(t, c, 1, echo); code != 0 {
		t.Fatalf("reply %d", code)
	}
	before := c.ConnectionState().PeerCertificates[0].SerialNumber
	ca.issue("proxy", "localhost")
	d.signal(syscall.SIGHUP)
	d.waitMessage("reloaded")
	again, err := ca.tlsDial(d.address)
	if err != nil {
		t.Fatal(err)
	}
	if again.ConnectionState().PeerCertificates[0].SerialNumber.Cmp(before) == 0 {
		t.Error("the old certificate")
	}
	echoes(t, c, "still there")

	// A certificate that is not its key's changes nothing, and says so.
	ca.issue("other", "localhost")
	in := again.ConnectionState().PeerCertificates[0].SerialNumber
	if err := os.Rename(ca.path("other.crt"), ca.path("proxy.crt")); err != nil {
		t.Fatal(err)
	}
	d.signal(syscall.SIGHUP)
	failed := d.waitMessage("reload failed: the old configuration stays")
	if !strings.Contains(failed.text("err"), "tls.cert, tls.key: ") {
		t.Errorf("the reload fails by %q", failed.text("err"))
	}
	if still, err := ca.tlsDial(d.address); err != nil || still.ConnectionState().PeerCertificates[0].SerialNumber.Cmp(in) != 0 {
		t.Errorf("after a mismatch: %v", err)
	}
	echoes(t, c, "and still")
	if at := d.metric(`cleversocks_tls_expires_timestamp_seconds{listener="` + d.address + `",what="certificate"}`); at == "" {
		t.Error("no metric says until when the certificate is good")
	}
}

// What is no TLS, and handshakes that are never finished, must end cleanly,
// be counted and leave nothing behind.
func TestBadInputAtTLS(t *testing.T) {
	ca := newAuthority(t)
	d := start(t, ca.tlsListener("")+"[limits]\nhandshake_timeout = \"1s\"\n")
	before := d.baseline()
	for _, sent := range []string{"\x05\x01\x00", "GET / HTTP/1.0\r\n\r\n", strings.Repeat("\xff", 4000), "\x16\x03\x01\x40\x00", ""} {
		c := dialProxy(t, d.address)
		send(t, c, []byte(sent)...)
		if sent != "" {
			_ = c.CloseWrite()
		}
		_, _ = io.Copy(io.Discard, c) // an alert may come, then the end
		c.Close()
	}
	eventually(t, "failed handshakes are counted", func() bool {
		return d.metric(`cleversocks_tls_handshakes_total{outcome="failed"}`) == "5"
	})
	d.backTo(before)
}

// A client that greets in SOCKS where TLS is spoken waited until the end of the
// handshake's time: its greeting is shorter than what TLS looks at.
func TestSOCKSAtTLS(t *testing.T) {
	ca := newAuthority(t)
	d := start(t, ca.tlsListener("")+"[limits]\nhandshake_timeout = \"1h\"\n")
	for _, greeting := range []string{"\x05\x01\x00", "\x05\x02\x00\x02", "\x04", "C"} {
		c := dialProxy(t, d.address)
		send(t, c, []byte(greeting)...)
		if b, err := io.ReadAll(c); err != nil || len(b) != 0 {
			t.Errorf("%q: %x, %v", greeting, b, err)
		}
	}
	d.find("of who speaks no TLS", func(l line) bool { return strings.Contains(l.text("err"), "does not speak TLS") })
}

// A hello in a hundred segments is a hello.
func TestTLSHelloInSegments(t *testing.T) {
	ca := newAuthority(t)
	d := start(t, ca.tlsListener(""))
	raw := dialProxy(t, d.address)
	if err := raw.SetNoDelay(true); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	c := tls.Client(splitConn{raw}, &tls.Config{RootCAs: pool, ServerName: "localhost"})
	send(t, c, 5, 1, 0)
	if got := receive(t, c, 2); got[1] != 0 {
		t.Errorf("%x", got)
	}
}

// splitConn writes a few bytes at a time.
type splitConn struct{ net.Conn }

func (c splitConn) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) {
		n, err := c.Conn.Write(b[written:min(written+3, len(b))])
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}
