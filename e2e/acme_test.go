package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/dns"

	"cleversocks/e2e/written"
)

// ACME against pebble, Let's Encrypt's server for tests: `task e2e` builds it
// into bin/.

const (
	pebblePort  = "14000"
	pebbleAdmin = "15000"
	// Where pebble looks for whoever has a domain, instead of 443.
	pebbleTLS = 15443
)

// pebble is an ACME server, and a name server that sends it here for every name
// but those below nowhere.example.
type pebble struct {
	t   *testing.T
	ca  *authority // of its own certificate
	cmd *exec.Cmd
	out written.Text
}

// issued is how many certificates it has issued.
func (p *pebble) issued() int {
	return strings.Count(p.out.String(), "Issued certificate serial")
}

// startPebble issues certificates that are valid for some seconds.
func startPebble(t *testing.T, ca *authority, valid int) *pebble {
	t.Helper()
	path, err := filepath.Abs("../bin/pebble")
	if _, failed := os.Stat(path); err != nil || failed != nil {
		path = program(t, "pebble", "none: go install github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.1")
	}
	ca.issue("pebble", "localhost")
	config := writeFile(t, "pebble.json", fmt.Sprintf(`{"pebble": {
		"listenAddress": "127.0.0.1:%s", "managementListenAddress": "127.0.0.1:%s", "certificate": %q, "privateKey": %q,
		"httpPort": 1, "tlsPort": %d, "retryAfter": {"authz": 1, "order": 1}, "domainBlocklist": ["refused.example"],
		"profiles": {"default": {"description": "x", "validityPeriod": %d}}}}`,
		pebblePort, pebbleAdmin, ca.path("pebble.crt"), ca.path("pebble.key"), pebbleTLS, valid))
	p := &pebble{t: t, ca: ca, cmd: exec.Command(path, "-config", config, "-dnsserver", everyName(t))}
	p.cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=5")
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("pebble: %s", p.out.String())
		}
	})
	awaitPort(t, "127.0.0.1:"+pebblePort)
	awaitPort(t, "127.0.0.1:"+pebbleAdmin)
	return p
}

func (p *pebble) stop() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// everyName says that every name is here, but for those of nowhere.example.
func everyName(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // pebble asks by TCP
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{Listener: l, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		answer := new(dns.Msg).SetReply(q)
		name := q.Question[0]
		switch {
		case strings.HasSuffix(name.Name, "nowhere.example."):
			answer.Rcode = dns.RcodeNameError
		case name.Qtype == dns.TypeA:
			answer.Answer = []dns.RR{&dns.A{
				Hdr: dns.RR_Header{Name: name.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(127, 0, 0, 1),
			}}
		}
		_ = w.WriteMsg(answer)
	})}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.Shutdown() })
	return l.Addr().String()
}

// roots are what its certificates are to be judged by.
func (p *pebble) roots() *x509.CertPool {
	p.t.Helper()
	own := x509.NewCertPool()
	own.AddCert(p.ca.cert)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: own}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://localhost:" + pebbleAdmin + "/roots/0")
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	pem, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		p.t.Fatalf("no root: %q", pem)
	}
	return pool
}

// start runs the proxy with certificates from pebble for some domains.
func (p *pebble) start(cache string, more string, domains ...string) *daemon {
	p.t.Helper()
	settings := fmt.Sprintf("[[listener]]\naddress = \"127.0.0.1:%d\"\n[listener.tls]\n%s\nacme = { domains = [\"%s\"], email = \"ops@proxy.example\", cache = %q, directory = \"https://localhost:%s/dir\" }\n[admin]\naddress = \"127.0.0.1:0\"\n",
		pebbleTLS, more, strings.Join(domains, `", "`), cache, pebblePort)
	cmd := exec.Command(binary, "--config", writeFile(p.t, "c.toml", settings), "--log-format", "json")
	cmd.Env = []string{"SSL_CERT_FILE=" + p.ca.path("ca.pem")}
	return startCommand(p.t, cmd)
}

// shaken shakes hands as a client that asks for a name, "" for none.
func shaken(address string, config *tls.Config) (*tls.Conn, error) {
	return tls.DialWithDialer(&net.Dialer{Timeout: 2 * patience}, "tcp", address, config)
}

// TestACMEFirstCertificate: the first certificate is there without anybody's doing,
// clients that come before it wait for it, and a restart has it from the cache, also
// when the ACME server is gone. It is asked for once.
func TestACMEFirstCertificate(t *testing.T) {
	p := startPebble(t, newAuthority(t), 90*24*3600)
	cache, roots := filepath.Join(t.TempDir(), "acme"), p.roots()
	d := p.start(cache, "", "proxy.example", "other.example")
	echo := echoServer(t, "127.0.0.1:0")
	for _, name := range []string{"proxy.example", "PROXY.example", "other.example"} {
		c, err := shaken(d.address, &tls.Config{RootCAs: roots, ServerName: name})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		send(t, c, 5, 1, 0)
		receive(t, c, 2)
		if code := request(t, c, 1, echo); code != 0 {
			t.Errorf("%s: reply %d", name, code)
		}
		echoes(t, c, "hello")
		c.Close()
	}
	// A client that names nobody gets the first domain's, and one that names
	// somebody else gets none: nobody makes us ask for names by asking for them.
	c, err := shaken(d.address, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	serial := c.ConnectionState().PeerCertificates[0].SerialNumber
	if got := c.ConnectionState().PeerCertificates[0].DNSNames; len(got) != 1 || got[0] != "proxy.example" {
		t.Errorf("without a name: %q", got)
	}
	c.Close()
	if c, err := shaken(d.address, &tls.Config{InsecureSkipVerify: true, ServerName: "stranger.example"}); err == nil {
		c.Close()
		t.Error("a stranger's name is served")
	}
	if n := p.issued(); n != 2 {
		t.Errorf("%d certificates for two domains", n)
	}
	d.find("of a certificate", func(l line) bool {
		return l.text("msg") == "ACME certificate in force" && l.text("domain") == "proxy.example"
	})
	d.signal(syscall.SIGTERM)
	if code := d.exitCode(); code != 0 {
		t.Errorf("exit status %d", code)
	}

	p.stop()
	again := p.start(cache, "", "proxy.example", "other.example")
	c, err = shaken(again.address, &tls.Config{RootCAs: roots, ServerName: "proxy.example"})
	if err != nil {
		t.Fatalf("after a restart: %v", err)
	}
	defer c.Close()
	if c.ConnectionState().PeerCertificates[0].SerialNumber.Cmp(serial) != 0 {
		t.Error("a restart has another certificate")
	}
}

// TestACMEFailure: a domain that is not ours, or that the server does not want,
// has no certificate, a line that says why, and one try a minute and less however
// many clients come. The other domains are served.
func TestACMEFailure(t *testing.T) {
	p := startPebble(t, newAuthority(t), 90*24*3600)
	d := p.start(t.TempDir(), "", "a.nowhere.example", "refused.example", "proxy.example")
	roots := p.roots()
	if c, err := shaken(d.address, &tls.Config{RootCAs: roots, ServerName: "proxy.example"}); err != nil {
		t.Errorf("a good domain: %v", err)
	} else {
		c.Close()
	}
	for domain, why := range map[string]string{"a.nowhere.example": "the server says: Could not resolve", "refused.example": "refused.example"} {
		l := d.find("of "+domain, func(l line) bool {
			return l.text("msg") == "no ACME certificate" && l.text("domain") == domain
		})
		if l.text("level") != "WARN" || !strings.Contains(l.text("err"), why) {
			t.Errorf("%s: %v", domain, l)
		}
		for range 5 {
			if c, err := shaken(d.address, &tls.Config{RootCAs: roots, ServerName: domain}); err == nil {
				c.Close()
				t.Errorf("%s is served", domain)
			}
		}
		if n := strings.Count(d.log(), `"no ACME certificate","domain":"`+domain); n != 1 {
			t.Errorf("%s: %d tries", domain, n)
		}
	}
}

// TestACMERenewal: certificates are renewed while tunnels go on, and those that are
// there are served on when the server has gone. Clients must show certificates
// here, which an ACME server has none of: its challenge is answered all the same.
func TestACMERenewal(t *testing.T) {
	ca := newAuthority(t)
	p := startPebble(t, ca, 12)
	ca.issue("alice", "alice")
	pair, err := tls.LoadX509KeyPair(ca.path("alice.crt"), ca.path("alice.key"))
	if err != nil {
		t.Fatal(err)
	}
	d := p.start(t.TempDir(), fmt.Sprintf("client_ca = %q", ca.path("ca.pem")), "proxy.example")
	echo, config := echoServer(t, "127.0.0.1:0"), &tls.Config{RootCAs: p.roots(), ServerName: "proxy.example", Certificates: []tls.Certificate{pair}}
	c, err := shaken(d.address, config)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send(t, c, 5, 1, 0)
	receive(t, c, 2)
	if code := request(t, c, 1, echo); code != 0 {
		t.Fatalf("reply %d", code)
	}
	first := c.ConnectionState().PeerCertificates[0].SerialNumber
	blind := config.Clone()
	blind.InsecureSkipVerify = true // one may run out before a busy machine has the next: better an old one than none
	eventually(t, "the certificate is another one", func() bool {
		again, err := shaken(d.address, blind)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		return again.ConnectionState().PeerCertificates[0].SerialNumber.Cmp(first) != 0
	})
	if next, err := shaken(d.address, config); err != nil {
		t.Errorf("the next certificate: %v", err)
	} else {
		next.Close()
	}
	echoes(t, c, "still there")
	p.stop()
	d.waitMessage("ACME certificate is not renewed")
	again, err := shaken(d.address, blind)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	// A challenge is all that is served without a client certificate.
	if c, err := shaken(d.address, &tls.Config{InsecureSkipVerify: true, ServerName: "proxy.example", NextProtos: []string{"acme-tls/1"}}); err == nil {
		if n, err := c.Read(make([]byte, 1)); err == nil || n > 0 {
			t.Error("a client of a challenge was served")
		}
		c.Close()
	}
	if l := d.seen("connection"); l != nil && l.text("protocol") != "socks5" {
		t.Errorf("a record of a challenge: %v", l)
	}
}
