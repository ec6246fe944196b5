package resolver

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"cleversocks/e2e/need"
	"cleversocks/metrics"
)

// unbound is a real name server on loopback: UDP and TCP on one port, DoT and
// DoH on others, with a certificate for dns.test.
type unbound struct {
	program          string
	conf             string
	plain, tls, http int
	roots            *x509.CertPool
	cmd              *exec.Cmd
}

const unboundConf = `
server:
  username: ""
  chroot: ""
  directory: "%[1]s"
  pidfile: "%[1]s/pid"
  use-syslog: no
  logfile: ""
  verbosity: 1
  num-threads: 1
  module-config: "iterator"
  do-ip6: no
  do-not-query-localhost: no
  interface: 127.0.0.1@%[2]d
  interface: 127.0.0.1@%[3]d
  interface: 127.0.0.1@%[4]d
  tls-port: %[3]d
  https-port: %[4]d
  http-endpoint: "/dns-query"
  tls-service-key: "%[1]s/key.pem"
  tls-service-pem: "%[1]s/cert.pem"
  local-zone: "test." static
  local-data: "test. 60 IN SOA ns.test. root.test. 1 2 3 4 20"
  local-data: "a.test. 60 IN A 192.0.2.1"
  local-data: "a.test. 60 IN AAAA 2001:db8::1"
  local-data: "brief.test. 0 IN A 192.0.2.2"
%[5]s
remote-control:
  control-enable: no
forward-zone:
  name: "slow.example."
  forward-addr: 127.0.0.1@%[6]d
`

// startUnbound starts the server; forward is where slow.example is asked for.
func startUnbound(t *testing.T, forward uint16) *unbound {
	t.Helper()
	program := need.Program(t, "unbound", "unbound")
	dir := t.TempDir()
	u := &unbound{program: program, conf: filepath.Join(dir, "unbound.conf"), roots: writeCertificate(t, dir)}
	u.plain, u.tls, u.http = int(need.Free(t).Port()), int(need.Free(t).Port()), int(need.Free(t).Port())
	var big strings.Builder // too much for a datagram
	for i := range 120 {
		fmt.Fprintf(&big, "  local-data: \"big.test. 60 IN A 192.0.2.%d\"\n", i+1)
	}
	text := fmt.Sprintf(unboundConf, dir, u.plain, u.tls, u.http, big.String(), forward)
	if err := os.WriteFile(u.conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	u.start(t)
	t.Cleanup(func() { u.kill(t) })
	return u
}

func (u *unbound) start(t *testing.T) {
	t.Helper()
	u.cmd = exec.Command(u.program, "-d", "-c", u.conf)
	u.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := u.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := u.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said []string
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		said = append(said, lines.Text())
		if strings.Contains(lines.Text(), "start of service") {
			go func() { // what it says later must not block it
				for lines.Scan() {
					continue
				}
			}()
			return
		}
	}
	t.Fatalf("unbound did not start: %s", strings.Join(said, "\n"))
}

func (u *unbound) kill(t *testing.T) {
	t.Helper()
	if u.cmd == nil {
		return
	}
	if err := u.cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = u.cmd.Wait() // "killed", as it was
	u.cmd = nil
}

// writeCertificate makes a self-signed certificate for dns.test and 127.0.0.1.
func writeCertificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "dns.test"},
		DNSNames: []string{"dns.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(filepath.Join(dir, "cert.pem"), cert, 0o600); err != nil {
		t.Fatal(err)
	}
	secret := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	if err := os.WriteFile(filepath.Join(dir, "key.pem"), secret, 0o600); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return pool
}

// servers are the ways to ask it, by transport.
func (u *unbound) servers() map[string]string {
	return map[string]string{
		"udp":               fmt.Sprintf("udp://127.0.0.1:%d", u.plain),
		"tcp":               fmt.Sprintf("tcp://127.0.0.1:%d", u.plain),
		"tls":               fmt.Sprintf("tls://127.0.0.1:%d#dns.test", u.tls),
		"tls by address":    fmt.Sprintf("tls://127.0.0.1:%d", u.tls),
		"tls by name":       fmt.Sprintf("tls://dns.test:%d#127.0.0.1", u.tls),
		"https":             fmt.Sprintf("https://dns.test:%d/dns-query#127.0.0.1", u.http),
		"https by address":  fmt.Sprintf("https://127.0.0.1:%d/dns-query", u.http),
		"https, hosts file": fmt.Sprintf("https://dns.test:%d/dns-query", u.http),
	}
}

func (u *unbound) options(t *testing.T, server string) Options {
	t.Helper()
	opts := testOptions(t, server)
	opts.RootCAs = u.roots
	writeFile(t, opts.Hosts, "127.0.0.1 dns.test\n")
	return opts
}

// TestUnbound asks a real server in every way: addresses, what does not
// exist, what is too big for a datagram; then kills it and starts it again.
func TestUnbound(t *testing.T) {
	u := startUnbound(t, 9)
	resolvers := make(map[string]*Resolver)
	for way, server := range u.servers() {
		r := newResolver(t, u.options(t, server))
		resolvers[way] = r
		for _, tt := range []struct {
			name   string
			family Family
			want   []netip.Addr
			err    error
		}{
			{"a.test", IPv4, addrs("192.0.2.1"), nil},
			{"a.test", IPv6, addrs("2001:db8::1"), nil},
			{"brief.test", IPv4, addrs("192.0.2.2"), nil},
			{"brief.test", IPv6, nil, ErrNotFound},
			{"none.test", IPv4, nil, ErrNotFound},
		} {
			got, err := r.Lookup(t.Context(), tt.name, tt.family)
			if !errors.Is(err, tt.err) {
				t.Errorf("%s: %s, %s: %v, want %v", way, tt.name, tt.family, err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got, compareAddrs); diff != "" {
				t.Errorf("%s: %s, %s: %s", way, tt.name, tt.family, diff)
			}
		}
		if got, err := r.Lookup(t.Context(), "big.test", IPv4); err != nil || len(got) != maxAddrs {
			t.Errorf("%s: big.test: %d addresses, %v", way, len(got), err)
		}
	}
	u.kill(t)
	for way, r := range resolvers {
		if _, err := r.Lookup(t.Context(), "other.test", IPv4); !errors.Is(err, ErrServers) {
			t.Errorf("%s: killed: %v, want %v", way, err, ErrServers)
		}
		if _, err := r.Lookup(t.Context(), "brief.test", IPv4); err != nil {
			t.Errorf("%s: killed: no stale answer: %v", way, err)
		}
	}
	u.start(t)
	for way, r := range resolvers {
		if _, err := r.Lookup(t.Context(), "none2.test", IPv4); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: started again: %v, want %v", way, err, ErrNotFound)
		}
	}
}

// TestUnboundCertificate refuses a certificate for another name, and one that
// nobody vouches for.
func TestUnboundCertificate(t *testing.T) {
	u := startUnbound(t, 9)
	for _, tt := range []struct {
		server string
		roots  *x509.CertPool
	}{
		{fmt.Sprintf("tls://127.0.0.1:%d#other.test", u.tls), u.roots},
		{fmt.Sprintf("tls://127.0.0.1:%d#dns.test", u.tls), x509.NewCertPool()},
		{fmt.Sprintf("https://other.test:%d/dns-query#127.0.0.1", u.http), u.roots},
		{fmt.Sprintf("https://dns.test:%d/dns-query#127.0.0.1", u.http), x509.NewCertPool()},
	} {
		opts := u.options(t, tt.server)
		opts.RootCAs = tt.roots
		_, err := newResolver(t, opts).Lookup(t.Context(), "a.test", IPv4)
		_, bad := errors.AsType[*tls.CertificateVerificationError](err)
		if !errors.Is(err, ErrServers) || !bad {
			t.Errorf("%s: %v", tt.server, err)
		}
		transport, _, _ := strings.Cut(tt.server, ":")
		if n := opts.Metrics.Lookups.Of(transport, metrics.DNSTLS).Get(); n == 0 {
			t.Errorf("%s: not counted", tt.server)
		}
	}
}

// TestUnboundConnections keeps one connection for many look-ups.
func TestUnboundConnections(t *testing.T) {
	u := startUnbound(t, 9)
	for _, way := range []string{"tcp", "tls", "https"} {
		r := newResolver(t, u.options(t, u.servers()[way]))
		var dialed atomic.Int32
		switch transport := r.state.Load().servers[0].transport.(type) {
		case *streamTransport:
			dial := transport.dial
			transport.dial = func(ctx context.Context) (net.Conn, error) { dialed.Add(1); return dial(ctx) }
		case *httpsTransport:
			dial := transport.client.DialContext
			transport.client.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				dialed.Add(1)
				return dial(ctx, network, addr)
			}
		}
		for i := range 20 {
			if _, err := r.Lookup(t.Context(), fmt.Sprintf("n%d.test", i), IPv4); !errors.Is(err, ErrNotFound) {
				t.Fatalf("%s: %v", way, err)
			}
		}
		if n := dialed.Load(); n != 1 {
			t.Errorf("%s: 20 look-ups took %d connections", way, n)
		}
	}
}

// TestUnboundSlow has the server itself wait for another one: a look-up that
// is given up ends at once, one that stays gets the answer.
func TestUnboundSlow(t *testing.T) {
	asked, proceed := make(chan struct{}, 64), make(chan struct{})
	origin := newFake(t, func(w dns.ResponseWriter, m *dns.Msg, _ string) {
		select {
		case asked <- struct{}{}:
		default:
		}
		<-proceed
		write(t, w, replyTo(t, m, m.Question[0].Name+" 60 IN A 192.0.2.3"))
	})
	u := startUnbound(t, origin.addr.Port())
	r := newResolver(t, u.options(t, u.servers()["udp"]))
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { _, err := r.Lookup(ctx, "a.slow.example", IPv4); left <- err }()
	<-asked
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	stayed := make(chan error, 1)
	go func() { _, err := r.Lookup(t.Context(), "b.slow.example", IPv4); stayed <- err }()
	<-asked
	close(proceed)
	if err := <-stayed; err != nil {
		t.Errorf("stayed: %v", err)
	}
}
