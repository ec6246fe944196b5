package docs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

//go:embed world.sh
var worldScript string

// webServer marks the copy of the test binary that is the world's web server.
const webServer = "CLEVERSOCKS_DOCS_WEB"

// The world's own copies of what the pages name.
const (
	worldConfig = `
[log]
output = "/var/log/cleversocks.log"
format = "json"
[[listener]]
address = "127.0.0.1:1080"
[[listener]]
address = "127.0.0.1:443"
[listener.tls]
cert = "/etc/cleversocks/tls.crt"
key = "/etc/cleversocks/tls.key"
[auth]
users_file = "/etc/cleversocks/users"
once = { enabled = true }
[acl]
block_private = true
[[acl.rule]]
action = "deny"
ports = [25]
[[acl.rule]]
action = "deny"
to = ["*.corp.example.com"]
[[upstream]]
name = "farm"
members = ["socks5://10.0.0.1:1080", "socks5://10.0.0.2:1080"]
[[forward]]
to = ["*.farm.example"]
upstream = "farm"
[admin]
token_file = "/etc/cleversocks/token"
[state]
directory = "/var/lib/cleversocks"
`
	worldHosts = `127.0.0.1 localhost proxy.example.com proxy.example.org
::1 localhost
11.22.33.80 example.com www.example.com api.example.com first.example new.example
10.0.0.1 intranet.example
`
	worldRealm = `[libdefaults]
  default_realm = EXAMPLE.COM
  dns_lookup_kdc = false
  dns_canonicalize_hostname = false
  rdns = false
[realms]
  EXAMPLE.COM = {
    kdc = 127.0.0.1:88
  }
`
	makeRealm = `mkdir -p /var/lib/krb5kdc
kdb5_util create -s -r EXAMPLE.COM -P master
kadmin.local -q "addprinc -pw secret alice"
kadmin.local -q "addprinc -randkey rcmd/proxy.example.com"
kadmin.local -q "addprinc -randkey HTTP/proxy.example.com"
kadmin.local -q "ktadd -k /etc/krb5kdc/krb5.keytab rcmd/proxy.example.com HTTP/proxy.example.com"
cp -a /var/lib/krb5kdc /etc/krb5kdc/database
`
)

// makeWorld builds the program and lays out the files from which each block's
// file system is made.
func makeWorld(t *testing.T) *world {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{dir: t.TempDir(), root: root}
	must(t, os.Chmod(w.dir, 0o755))
	w.command(t, "go", "build", "-o", filepath.Join(w.dir, "bin", "cleversocks"), "./cmd/cleversocks")
	self, err := os.Executable()
	must(t, err)
	w.command(t, "cp", self, filepath.Join(w.dir, "bin", "web"))
	w.write(t, "world.sh", worldScript)
	w.write(t, "hosts", worldHosts)
	hash := func(password string) string {
		cmd := exec.Command(filepath.Join(w.dir, "bin", "cleversocks"), "hash")
		cmd.Stdin = strings.NewReader(password)
		out, err := cmd.Output()
		must(t, err)
		return strings.TrimSpace(string(out))
	}
	w.write(t, "cleversocks/cleversocks.toml", worldConfig)
	w.write(t, "cleversocks/users", "alice:"+hash("secret")+"\n")
	w.write(t, "cleversocks/password", "secret\n")
	w.write(t, "cleversocks/token", "an-operators-token-for-the-tests\n")
	w.write(t, "cleversocks/redis.password", "secret\n")
	w.write(t, "cleversocks/members.txt", "socks5://10.0.0.1:1080\nsocks5://10.0.0.2:1080\n")
	w.write(t, "cleversocks/denied.txt", "203.0.113.0/24\n*.denied.example\n")
	w.write(t, "krb5.conf", worldRealm)
	w.certificates(t)
	w.realm(t)
	return w
}

// realm makes the user database of a realm, and the keytab of the proxy.
func (w *world) realm(t *testing.T) {
	t.Helper()
	made := filepath.Join(w.run(t, makeRealm), "etc", "krb5kdc")
	w.command(t, "cp", filepath.Join(made, "krb5.keytab"), filepath.Join(w.dir, "cleversocks", "krb5.keytab"))
	w.command(t, "cp", "-a", made, filepath.Join(w.dir, "krb5kdc"))
}

// certificates makes an authority, its list of revoked certificates, and a
// certificate for the proxy and the web server.
func (w *world) certificates(t *testing.T) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	now := time.Now()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the docs' authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	root, err := x509.CreateCertificate(rand.Reader, authority, authority, &key.PublicKey, key)
	must(t, err)
	authority, err = x509.ParseCertificate(root)
	must(t, err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "proxy.example.org"}, NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
		DNSNames: []string{"proxy.example.org", "proxy.example.com", "example.com", "www.example.com", "api.example.com"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, authority, &key.PublicKey, key)
	must(t, err)
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now, NextUpdate: now.Add(24 * time.Hour)}, authority, key)
	must(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	for name, b := range map[string]*pem.Block{
		"tls.crt": {Type: "CERTIFICATE", Bytes: der}, "tls.key": {Type: "PRIVATE KEY", Bytes: raw},
		"ca.crt": {Type: "CERTIFICATE", Bytes: root}, "redis-ca.pem": {Type: "CERTIFICATE", Bytes: root}, "clients.pem": {Type: "CERTIFICATE", Bytes: root}, "clients.crl": {Type: "X509 CRL", Bytes: list},
	} {
		w.write(t, "cleversocks/"+name, string(pem.EncodeToMemory(b)))
	}
}

// serveWeb is the world's web server, until the world's end.
func serveWeb() {
	page := http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprintln(rw, "hello") })
	go func() {
		fmt.Fprintln(os.Stderr, http.ListenAndServeTLS("11.22.33.80:443", "/etc/cleversocks/tls.crt", "/etc/cleversocks/tls.key", page))
	}()
	fmt.Fprintln(os.Stderr, http.ListenAndServe("11.22.33.80:80", page))
	os.Exit(1)
}

func (w *world) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(w.dir, name)
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(text), 0o600))
}

// command runs a program in the project's folder.
func (w *world) command(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = w.root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
