package upstream

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"cleversocks/conn/wire"
	"cleversocks/e2e/need"
)

// These tests run Debian's dante-server, microsocks and haproxy on loopback.
// They are left out where the programs are missing; CI runs them.

// start runs a program until the test ends and waits for its port.
func start(t *testing.T, at, name string, args ...string) {
	t.Helper()
	debian := map[string]string{"danted": "dante-server"}[name]
	path := need.Program(t, name, cmp.Or(debian, name))
	var out bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	// A group of its own, so that what it forked can be ended too if need be.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s is needed for this test: %v", name, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(5*time.Second, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		_ = cmd.Wait()
		kill.Stop()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, out.String())
		}
	})
	eventually(t, name+" listens", func() bool {
		c, err := net.Dial("tcp", at)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

// file writes a file for a program that may run as another user.
func file(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func dante(t *testing.T) string {
	t.Helper()
	at := free(t)
	_, port, _ := net.SplitHostPort(at)
	conf := file(t, "danted.conf", fmt.Appendf(nil, `logoutput: stderr
internal: 127.0.0.1 port = %s
external: 127.0.0.1
clientmethod: none
socksmethod: none
client pass { from: 127.0.0.0/8 to: 0.0.0.0/0 }
socks pass { from: 127.0.0.0/8 to: 0.0.0.0/0 }
`, port))
	start(t, at, "danted", "-f", conf, "-p", filepath.Join(t.TempDir(), "pid"), "-N", "1")
	return at
}

func microsocks(t *testing.T, args ...string) string {
	t.Helper()
	at := free(t)
	host, port, _ := net.SplitHostPort(at)
	start(t, at, "microsocks", append([]string{"-i", host, "-p", port}, args...)...)
	return at
}

// haproxyTLS puts TLS in front of a server; the client configuration trusts
// it.
func haproxyTLS(t *testing.T, server string) (string, *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, &x509.Certificate{SerialNumber: big.NewInt(1)}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	both := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})...)
	at := free(t)
	conf := file(t, "haproxy.cfg", fmt.Appendf(nil, `defaults
  mode tcp
  timeout connect 5s
  timeout client 1m
  timeout server 1m
listen socks
  bind %s ssl crt %s
  server s %s
`, at, file(t, "both.pem", both), server))
	start(t, at, "haproxy", "-f", conf)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return at, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

func dialThrough(t *testing.T, o Options, dest wire.Addr) {
	t.Helper()
	r := compile(t, o)
	if o.Upstreams[0].Warm.Size > 0 {
		run(t, r)
		r.pools[0].members[0].waitWarm(t, int64(o.Upstreams[0].Warm.Size))
	}
	conn, info, err := r.Route(Query{Dest: dest}).Dial(t.Context(), dest)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(); info.Release() }()
	if info.Warm != (o.Upstreams[0].Warm.Size > 0) {
		t.Errorf("warm %v", info.Warm)
	}
	roundTrip(t, conn)
}

func TestRealDante(t *testing.T) {
	at := dante(t)
	dest := addr(t, echo(t))
	for _, scheme := range []string{"socks5://", "socks4a://"} {
		for _, size := range []int{0, 1} {
			dialThrough(t, options(Upstream{Via: []string{scheme + at}, Warm: Warm{Size: size}}), dest)
		}
	}
	route := compile(t, options(Upstream{Via: []string{"socks5://" + at}})).Route(Query{})
	_, _, err := route.Dial(t.Context(), addr(t, need.Refusing(t).String()))
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != wire.ReplyConnectionRefused || e.HopFault {
		t.Errorf("a destination that refuses: %v", err)
	}
	datagrams(t, route)
}

// datagrams sends one through an association and waits for its echo.
func datagrams(t *testing.T, route Route) {
	t.Helper()
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 100)
		for {
			n, from, rerr := server.ReadFromUDPAddrPort(b)
			if rerr != nil {
				return
			}
			_, _ = server.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	t.Cleanup(func() { _ = server.Close(); <-done })
	control, relay, info, err := route.Associate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = control.Close(); info.Release() }()
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(relay))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	to := server.LocalAddr().(*net.UDPAddr).AddrPort()
	head := []byte{0, 0, 0, 1, 127, 0, 0, 1, byte(to.Port() >> 8), byte(to.Port())}
	if _, err = c.Write(append(head, "hello"...)); err != nil {
		t.Fatal(err)
	}
	if err = c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, err := c.Read(b)
	if err != nil || !bytes.HasSuffix(b[:n], []byte("hello")) {
		t.Errorf("%q, %v", b[:n], err)
	}
}

func TestRealMicrosocks(t *testing.T) {
	at := microsocks(t, "-u", "alice", "-P", "hunter2")
	dest := addr(t, echo(t))
	for _, size := range []int{0, 1} {
		dialThrough(t, options(Upstream{Via: []string{"socks5://alice:hunter2@" + at}, Warm: Warm{Size: size}}), dest)
	}
	for _, auth := range []string{"", "alice:wrong@"} {
		r := compile(t, options(Upstream{Via: []string{"socks5://" + auth + at}}))
		_, _, err := r.Route(Query{}).Dial(t.Context(), dest)
		if e, ok := errors.AsType[*Error](err); !ok || !e.HopFault {
			t.Errorf("%q: %v", auth, err)
		}
	}
	// Its own -f form leads to it.
	up, rule, err := ParseForward(fmt.Sprintf("match.example:0,alice:hunter2@%s,%s", at, dest), "-f 1")
	if err != nil {
		t.Fatal(err)
	}
	o := options(up)
	o.Upstreams[0].Name, o.Forward = up.Name, []Rule{rule}
	route := compile(t, o).Route(Query{Dest: wire.Addr{Name: "match.example", Port: 80}})
	conn, info, err := route.Dial(t.Context(), route.Dest)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(); info.Release() }()
	roundTrip(t, conn)
}

// TestRealChain: microsocks behind haproxy's TLS, reached through dante.
func TestRealChain(t *testing.T) {
	secure, cfg := haproxyTLS(t, microsocks(t))
	dest := addr(t, echo(t))
	for _, size := range []int{0, 1} {
		o := options(Upstream{Via: []string{"socks5+tls://" + secure}, Warm: Warm{Size: size}})
		o.TLS = cfg
		dialThrough(t, o, dest)
		o = options(Upstream{Via: []string{"socks5://" + dante(t), "socks5+tls://" + secure}, Warm: Warm{Size: size}})
		o.TLS = cfg
		dialThrough(t, o, dest)
	}
	if dest.IP != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("the echo server is at %v", dest)
	}
}
