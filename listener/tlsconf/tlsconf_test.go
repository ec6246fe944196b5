package tlsconf

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// authority is a CA that issues what a test needs.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t, next: 1}
	a.key = newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue makes a certificate for a name, which a spiffe:// one has as its URI.
func (a *authority) issue(name string) tls.Certificate {
	a.t.Helper()
	a.next++
	key := newKey(a.t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.next), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if u, err := url.Parse(name); err == nil && u.Scheme == "spiffe" {
		template.URIs = []*url.URL{u}
	} else {
		template.Subject.CommonName, template.DNSNames = name, []string{name + ".example"}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// revoke writes a list of certificates.
func (a *authority) revoke(path string, revoked ...tls.Certificate) {
	a.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
	for _, c := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: c.Leaf.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	write(a.t, path, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// files are a door's, in a folder of the test's.
type files struct{ cert, key, ca, crl string }

func newFiles(t *testing.T) files {
	t.Helper()
	dir := t.TempDir()
	return files{filepath.Join(dir, "cert"), filepath.Join(dir, "key"), filepath.Join(dir, "ca"), filepath.Join(dir, "crl")}
}

func (f files) put(t *testing.T, c tls.Certificate) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write(t, f.cert, certPEM(c.Certificate[0]))
	write(t, f.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// handshake is one between a client and the door; the server's state and the
// errors of both.
func handshake(t *testing.T, d *Door, client *tls.Config) (state, clientState tls.ConnectionState, server, there error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		raw, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			done <- err
			return
		}
		defer raw.Close()
		_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
		c := tls.Client(raw, client)
		if err = c.Handshake(); err == nil {
			_, err = c.Read(make([]byte, 1)) // TLS 1.3 clients learn of a refusal here, and get tickets
			clientState = c.ConnectionState()
		}
		done <- err
	}()
	raw, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
	s := tls.Server(raw, d.Config())
	if server = s.Handshake(); server == nil {
		_, _ = s.Write([]byte("x"))
	}
	there = <-done
	return s.ConnectionState(), clientState, server, there
}

func clientConfig(ca *authority, protos ...string) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return &tls.Config{RootCAs: pool, ServerName: "proxy.example", NextProtos: protos}
}

func open(t *testing.T, k *Keeper, o Options) *Door {
	t.Helper()
	d, err := k.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func keeper() *Keeper { return NewKeeper(KeeperOptions{Log: slog.New(slog.DiscardHandler)}) }

func TestVersionsAndProtocols(t *testing.T) {
	ca, f := newAuthority(t, "ca"), newFiles(t)
	f.put(t, ca.issue("proxy"))
	d := open(t, keeper(), Options{Cert: f.cert, Key: f.key, HTTP2: true})
	for _, tt := range []struct {
		name    string
		set     func(*tls.Config)
		proto   string
		refused bool
	}{
		{"TLS 1.3", func(*tls.Config) {}, "", false},
		{"TLS 1.2", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, "", false},
		{"TLS 1.1", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, "", true},
		{"h2", func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} }, "h2", false},
		{"http/1.1", func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }, "http/1.1", false},
		// A SOCKS client behind a TLS library that offers something of its own.
		{"unknown protocol", func(c *tls.Config) { c.NextProtos = []string{"socks"} }, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := clientConfig(ca)
			tt.set(c)
			state, _, server, there := handshake(t, d, c)
			if (server != nil) != tt.refused {
				t.Fatalf("server %v, client %v", server, there)
			}
			if !tt.refused && state.NegotiatedProtocol != tt.proto {
				t.Errorf("protocol %q", state.NegotiatedProtocol)
			}
		})
	}
}

// A certificate is replaced while the daemon runs; while only half of the pair
// has been replaced, the old one stays.
func TestFilesChange(t *testing.T) {
	ca, f := newAuthority(t, "ca"), newFiles(t)
	first, second := ca.issue("proxy"), ca.issue("proxy")
	f.put(t, first)
	k := keeper()
	d := open(t, k, Options{Cert: f.cert, Key: f.key})
	serial := func() int64 {
		_, client, server, there := handshake(t, d, clientConfig(ca))
		if server != nil || there != nil {
			t.Fatal(server, there)
		}
		return client.PeerCertificates[0].SerialNumber.Int64()
	}
	before := serial()
	write(t, f.cert, certPEM(second.Certificate[0]))
	k.look(t.Context())
	if got := serial(); got != before {
		t.Fatal("half of a pair was taken")
	}
	f.put(t, second)
	k.look(t.Context())
	if got := serial(); got != second.Leaf.SerialNumber.Int64() {
		t.Errorf("serial %d after the change", got)
	}
	write(t, f.cert, []byte("nonsense"))
	if _, err := d.Prepare(); err == nil {
		t.Error("a reload takes nonsense")
	}
	k.look(t.Context())
	if got := serial(); got != second.Leaf.SerialNumber.Int64() {
		t.Error("a broken file took the good one's place")
	}
}

func TestClientCertificates(t *testing.T) {
	ca, clients, strangers, f := newAuthority(t, "ca"), newAuthority(t, "clients"), newAuthority(t, "clients"), newFiles(t)
	f.put(t, ca.issue("proxy"))
	write(t, f.ca, certPEM(clients.cert.Raw))
	alice, revoked, workload := clients.issue("alice"), clients.issue("mallory"), clients.issue("spiffe://example.org/billing")
	clients.revoke(f.crl, revoked)
	d := open(t, keeper(), Options{Cert: f.cert, Key: f.key, ClientCA: f.ca, CRL: f.crl})
	for _, tt := range []struct {
		name  string
		certs []tls.Certificate
		names []string // nil: refused
	}{
		{"common name, then the others", []tls.Certificate{alice}, []string{"alice", "alice.example"}},
		{"SPIFFE", []tls.Certificate{workload}, []string{"spiffe://example.org/billing"}},
		{"none", nil, nil},
		{"of another CA of the same name", []tls.Certificate{strangers.issue("alice")}, nil},
		{"revoked", []tls.Certificate{revoked}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				c := clientConfig(ca)
				c.Certificates, c.MaxVersion = tt.certs, version
				state, _, server, there := handshake(t, d, c)
				if (server != nil) != (tt.names == nil) || (there != nil) != (tt.names == nil) {
					t.Fatalf("server %v, client %v", server, there)
				}
				if got := Names(state); server == nil && !slices.Equal(got, tt.names) {
					t.Errorf("names %q", got)
				}
			}
		})
	}
}

// A ticket from before must not carry a client past its revocation.
// What mounts Kubernetes' secrets leaves the names alone, and turns the link that they
// go through to another folder: other proxies served the old certificate until they
// were restarted.
func TestFilesBehindALink(t *testing.T) {
	ca, dir := newAuthority(t, "ca"), t.TempDir()
	put := func(version string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		files{cert: filepath.Join(dir, version, "tls.crt"), key: filepath.Join(dir, version, "tls.key")}.put(t, ca.issue("proxy"))
		if err := os.Symlink(version, filepath.Join(dir, "..data.new")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data.new"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	put("one")
	for _, name := range []string{"tls.crt", "tls.key"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	k := keeper()
	d := open(t, k, Options{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")})
	before := d.Leaf()
	put("two")
	k.look(t.Context())
	if d.Leaf().Equal(before) {
		t.Error("the old certificate is served")
	}
}

// Where client_ca is an intermediate authority, its own list is all that there has to
// be: haproxy then refused everybody, for want of the root's.
func TestListOfAnIntermediate(t *testing.T) {
	root, between, f := newAuthority(t, "root"), newAuthority(t, "between"), newFiles(t)
	between.certifiedBy(root)
	f.put(t, root.issue("proxy"))
	write(t, f.ca, certPEM(between.cert.Raw))
	good, bad := between.issue("good"), between.issue("bad")
	between.revoke(f.crl, bad)
	d := open(t, keeper(), Options{Cert: f.cert, Key: f.key, ClientCA: f.ca, CRL: f.crl})
	for _, tt := range []struct {
		cert tls.Certificate
		ok   bool
	}{{good, true}, {bad, false}, {root.issue("not of it"), false}} {
		c := clientConfig(root)
		c.Certificates = []tls.Certificate{tt.cert}
		if _, _, err, _ := handshake(t, d, c); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.cert.Leaf.Subject, err)
		}
	}
}

// certifiedBy makes an authority another's.
func (a *authority) certifiedBy(root *authority) {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, a.cert, root.cert, a.key.Public(), root.key)
	if err != nil {
		a.t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		a.t.Fatal(err)
	}
}

func TestBadFiles(t *testing.T) {
	ca, other, f := newAuthority(t, "ca"), newAuthority(t, "other"), newFiles(t)
	f.put(t, ca.issue("proxy"))
	write(t, f.ca, certPEM(ca.cert.Raw))
	other.revoke(f.crl)
	empty := filepath.Join(t.TempDir(), "empty")
	write(t, empty, nil)
	for name, o := range map[string]Options{
		"no certificate":             {Cert: "nowhere", Key: f.key},
		"a key as certificate":       {Cert: f.key, Key: f.key},
		"an empty client_ca":         {Cert: f.cert, Key: f.key, ClientCA: empty},
		"a list without client_ca":   {Cert: f.cert, Key: f.key, CRL: f.crl},
		"another CA's list":          {Cert: f.cert, Key: f.key, ClientCA: f.ca, CRL: f.crl},
		"an empty list, cut to zero": {Cert: f.cert, Key: f.key, ClientCA: f.ca, CRL: empty},
		"a certificate as a list":    {Cert: f.cert, Key: f.key, ClientCA: f.ca, CRL: f.cert},
	} {
		if _, err := keeper().Open(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A byte order mark in front of PEM hid the first block: the certificate was
// missing, or one CA of several.
func TestFilesWithAByteOrderMark(t *testing.T) {
	ca, f := newAuthority(t, "ca"), newFiles(t)
	f.put(t, ca.issue("proxy"))
	write(t, f.ca, certPEM(ca.cert.Raw))
	ca.revoke(f.crl)
	for _, path := range []string{f.cert, f.key, f.ca, f.crl} {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, append([]byte("\xef\xbb\xbf"), raw...))
	}
	if _, err := keeper().Open(Options{Cert: f.cert, Key: f.key, ClientCA: f.ca, CRL: f.crl}); err != nil {
		t.Error(err)
	}
	write(t, f.cert, []byte("\xff\xfe-\x00"))
	if _, err := keeper().Open(Options{Cert: f.cert, Key: f.key}); err == nil || !strings.Contains(err.Error(), "UTF-16") {
		t.Errorf("UTF-16: %v", err)
	}
}
