package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// authority issues a test's certificates.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.sign("e2e authority", true)
	a.write("ca.pem", "CERTIFICATE", a.cert.Raw)
	return a
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) write(name, kind string, der []byte) {
	a.t.Helper()
	rewrite(a.t, a.path(name), string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
	if err := os.Chmod(a.path(name), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// sign makes a certificate for a name, by the authority or, the first one, by
// itself. A spiffe:// name is a URI.
func (a *authority) sign(name string, isCA bool) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.next++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.next), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if u, err := url.Parse(name); err == nil && u.Scheme == "spiffe" {
		template.Subject.CommonName, template.DNSNames, template.URIs = "", nil, []*url.URL{u}
	}
	parent, signer := a.cert, a.key
	if isCA {
		template.IsCA, template.BasicConstraintsValid = true, true
		template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageCertSign|x509.KeyUsageCRLSign, nil
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// issue writes NAME.crt and NAME.key for a subject.
func (a *authority) issue(file, subject string) *x509.Certificate {
	a.t.Helper()
	cert, key := a.sign(subject, false)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(file+".key", "PRIVATE KEY", der)
	a.write(file+".crt", "CERTIFICATE", cert.Raw)
	return cert
}

// revoke writes crl.pem.
func (a *authority) revoke(certs ...*x509.Certificate) {
	a.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
	for _, c := range certs {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write("crl.pem", "X509 CRL", der)
}

// tlsListener is a [[listener]] over TLS, with more of its lines.
func (a *authority) tlsListener(more string) string {
	a.issue("proxy", "localhost")
	return fmt.Sprintf("[[listener]]\naddress = \"127.0.0.1:0\"\n%s\n[listener.tls]\ncert = %q\nkey = %q\n", more, a.path("proxy.crt"), a.path("proxy.key"))
}

// tlsDial is a TLS client of the proxy.
func (a *authority) tlsDial(address string, certs ...tls.Certificate) (*tls.Conn, error) {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	dialer := &net.Dialer{Timeout: patience}
	c, err := tls.DialWithDialer(dialer, "tcp", address, &tls.Config{RootCAs: pool, ServerName: "localhost", Certificates: certs})
	if err == nil {
		a.t.Cleanup(func() { c.Close() })
		err = c.SetDeadline(time.Now().Add(patience))
	}
	return c, err
}

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

// haproxy runs a real one in front of the proxy.
func haproxy(t *testing.T, config string) {
	t.Helper()
	path := writeFile(t, "haproxy.cfg", "global\n  log stderr local0\ndefaults\n  mode tcp\n  timeout client 30s\n  timeout server 30s\n  timeout connect 5s\n"+config)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program(t, "haproxy", "haproxy"), "-db", "-f", path)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("haproxy: %s", out.String())
		}
	})
}

func TestBehindHaproxy(t *testing.T) {
	web, ca := origin(t, "127.0.0.1:0"), newAuthority(t)
	plain := "[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.1\"]\n"
	d := start(t, plain+"\n[limits]\nmax_connections_per_ip = 1\n[[acl.rule]]\naction = \"deny\"\nfrom = [\"198.51.100.9\"]\n[[acl.rule]]\naction = \"allow\"\nto = [\"127.0.0.0/8\"]\n")
	over := start(t, ca.tlsListener("proxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.1\"]"))
	front := func(port int, server string) string {
		return fmt.Sprintf("listen p%d\n  bind 198.51.100.1:%d\n  unique-id-format id-%%rt\n  server s %s\n", port, port, server)
	}
	haproxy(t, front(15001, d.address+" send-proxy")+front(15002, d.address+" send-proxy-v2")+
		front(15003, d.address+" send-proxy-v2 proxy-v2-options unique-id,crc32c")+
		front(15004, over.address+" send-proxy-v2 check check-ssl verify none inter 100ms fall 1"))
	// A check of its own says LOCAL, and shakes hands; it is no client with a record.
	eventually(t, "haproxy's checks are answered", func() bool {
		n, _ := strconv.Atoi(over.metric(`cleversocks_tls_handshakes_total{outcome="ok"}`))
		return n > 3
	})
	if l := over.seen("connection"); l != nil {
		t.Errorf("a check is recorded as %v", l)
	}
	for p, tt := range map[string]struct {
		d    *daemon
		args []string
	}{
		"15001": {d, []string{"--proxy", "socks5h://198.51.100.1:15001"}},
		"15002": {d, []string{"--proxy", "socks5h://198.51.100.1:15002"}},
		"15003": {d, []string{"--proxy", "socks5h://198.51.100.1:15003"}},
		"15004": {over, []string{"--proxytunnel", "--proxy-insecure", "--proxy", "https://198.51.100.1:15004"}},
	} {
		awaitListening(t, "198.51.100.1:"+p)
		source := "198.51.100.2" + p[4:]
		if out := mustCurl(t, append(tt.args, "--interface", source, web.URL+"/")...); !strings.Contains(out, "hello from") {
			t.Errorf("%s: %q", p, out)
		}
		tt.d.find("of the client behind haproxy", func(l line) bool {
			return l.text("msg") == "connection" && strings.HasPrefix(l.text("client"), source+":")
		})
	}
	d.find("with haproxy's fields", func(l line) bool { return strings.HasPrefix(l.text("door"), "unique_id=id-") })

	// Rules mean the client, not haproxy.
	if out, err := curl(t, "--interface", "198.51.100.9", "--proxy", "socks5h://198.51.100.1:15002", web.URL+"/"); err == nil {
		t.Errorf("a denied client was served: %q", out)
	}
	// So do the limits: a second connection of one client is refused, while
	// all of haproxy's come from one address.
	first := dialProxyFrom(t, "198.51.100.1:15002", "198.51.100.30")
	send(t, first, 5, 1, 0)
	receive(t, first, 2)
	second := dialProxyFrom(t, "198.51.100.1:15002", "198.51.100.30")
	send(t, second, 5, 1, 0)
	if n, _ := second.Read(make([]byte, 2)); n != 0 {
		t.Error("a second connection of one client was served")
	}
	eventually(t, "the refusal is counted", func() bool {
		n, _ := strconv.Atoi(d.metric(`cleversocks_connections_refused_total{reason="ip_limit"}`))
		return n > 0 // and again where haproxy sees the reset before it has connected, and tries again
	})
}

// awaitListening waits until an address accepts, without a word to it.
func awaitListening(t *testing.T, address string) {
	t.Helper()
	eventually(t, address+" accepts", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// Nobody but a trusted proxy says who the client is.
func TestForgedProxyHeader(t *testing.T) {
	d := start(t, "[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = \"required\"\ntrusted_proxies = [\"192.0.2.7\"]\n"+
		"[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = \"optional\"\ntrusted_proxies = [\"192.0.2.7\"]\n")
	forged := "PROXY TCP4 203.0.113.5 127.0.0.1 4000 1080\r\n\x05\x01\x00"
	if raw, err := net.Dial("tcp", d.address); err == nil { // the reset may come to the dial
		defer raw.Close()
		_ = raw.SetDeadline(time.Now().Add(patience))
		_, _ = raw.Write([]byte(forged))
		if n, err := raw.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Error("a stranger was served where a header is required")
		}
	}
	eventually(t, "the stranger is counted", func() bool {
		return d.metric(`cleversocks_connections_refused_total{reason="source"}`) == "1"
	})
	var optional string
	d.find("of the second listener", func(l line) bool {
		optional = l.text("address")
		return l.text("msg") == "proxy listens" && optional != d.address
	})
	c := dialProxy(t, optional)
	_, _ = c.Write([]byte(forged))
	if got, _ := io.ReadAll(c); len(got) > 0 && got[0] == 5 {
		t.Errorf("a forged header was believed: %x", got)
	}
	if strings.Contains(d.log(), "203.0.113.5") {
		t.Error("a forged address is in the log")
	}
}
