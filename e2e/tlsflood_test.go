package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cleversocks/e2e/need"
	"cleversocks/e2e/written"
)

// recorder is a conn that keeps what is written, and whose other end is silent.
type recorder struct {
	net.Conn
	said bytes.Buffer
}

func (r *recorder) Write(b []byte) (int, error)   { return r.said.Write(b) }
func (*recorder) Read([]byte) (int, error)        { return 0, io.EOF }
func (*recorder) Close() error                    { return nil }
func (*recorder) SetDeadline(time.Time) error     { return nil }
func (*recorder) SetReadDeadline(time.Time) error { return nil }

// hello is what a TLS client says first.
func hello() []byte {
	var r recorder
	_ = tls.Client(&r, &tls.Config{ServerName: "localhost", InsecureSkipVerify: true}).Handshake() // ends after that
	return r.said.Bytes()
}

// bigIdentity is a client certificate of 100 KiB, by nobody.
func bigIdentity(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), Subject: pkix.Name{CommonName: "big"}}
	for n := range 2000 {
		template.DNSNames = append(template.DNSNames, fmt.Sprintf("%040d.example", n))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// rsaIdentity writes a certificate whose key takes long to sign with, as many have.
func (a *authority) rsaIdentity(file string) {
	a.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1000), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(file+".crt", "CERTIFICATE", der)
	a.write(file+".key", "PRIVATE KEY", private)
}

// TestTLSFlood: half-done handshakes by the hundred, what is no TLS, old versions,
// certificates of 100 KiB, and whole handshakes as fast as one source can have them
// keep nobody else out. Latencies are logged; what is asserted is that every honest
// client is served, and that what the flood held is given back.
func TestTLSFlood(t *testing.T) {
	plain := need.Plain(t)
	ca, echo := newAuthority(t), echoServer(t, "127.0.0.1:0")
	ca.rsaIdentity("rsa")
	listener := func(more string) string {
		return fmt.Sprintf("[[listener]]\naddress = \"127.0.0.1:0\"\n[listener.tls]\ncert = %q\nkey = %q\n%s\n", ca.path("rsa.crt"), ca.path("rsa.key"), more)
	}
	settings := listener("") + listener(fmt.Sprintf("client_ca = %q", ca.path("ca.pem"))) +
		"[admin]\naddress = \"127.0.0.1:0\"\npprof = true\n[log]\naccess = \"off\"\n[auth]\nrequired = false\n[limits]\nhandshake_timeout = \"20s\"\n"
	d := startCommand(t, exec.Command(plain, "--config", writeFile(t, "c.toml", settings), "--log-format", "json"))
	strict := d.find("of the second listener", func(l line) bool {
		return l.text("msg") == "proxy listens" && l.text("address") != d.address
	}).text("address")

	honest := func() {
		c, err := ca.tlsDialFrom("127.0.0.3", d.address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		send(t, c, 5, 1, 0)
		receive(t, c, 2)
		if code := request(t, c, 1, echo); code != 0 {
			t.Fatalf("reply %d", code)
		}
		echoes(t, c, "x")
	}
	honest()
	held := d.baseline()
	before := measure(t, honest)

	ctx, cancel := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	var shaken, refused atomic.Int64
	defer flood.Wait()
	defer cancel()
	said := hello()
	for n := range 200 {
		flood.Go(func() { hold(ctx, d.address, floodSource(1, n), said) })
		flood.Go(func() { hold(ctx, d.address, floodSource(2, n), said[:len(said)/2]) })
	}
	for n := range 50 {
		flood.Go(func() { drip(ctx, d.address, floodSource(3, n), said) })
	}
	again := func(address, source string, config *tls.Config) {
		flood.Go(func() {
			for ctx.Err() == nil {
				if shakeOnce(ctx, address, source, config) == nil {
					shaken.Add(1)
				} else {
					refused.Add(1)
				}
			}
		})
	}
	for range 8 { // one source, whole handshakes
		again(d.address, "127.0.0.4", &tls.Config{InsecureSkipVerify: true})
	}
	again(d.address, "127.0.0.5", &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	again(strict, "127.0.0.6", &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{bigIdentity(t)}})
	flood.Go(func() {
		for ctx.Err() == nil {
			hold(ctx, d.address, "127.0.0.7", bytes.Repeat([]byte{0x80, 0xff, 0x16}, 5000))
		}
	})
	eventually(t, "the flood is there", func() bool { return shaken.Load() > 20 && refused.Load() > 5 })
	during := measure(t, honest)
	t.Logf("honest clients: before %s, during %s; %d handshakes of one source, %d refused", before, during, shaken.Load(), refused.Load())
	cancel()
	flood.Wait()
	d.backTo(held)
}

// tlsDialFrom is tlsDial from an address.
func (a *authority) tlsDialFrom(source, address string) (*tls.Conn, error) {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	dialer := &net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	c, err := tls.DialWithDialer(dialer, "tcp", address, &tls.Config{RootCAs: pool, ServerName: "localhost"})
	if err == nil {
		err = c.SetDeadline(time.Now().Add(patience))
	}
	return c, err
}

func shakeOnce(ctx context.Context, address, source string, config *tls.Config) error {
	dialer := tls.Dialer{NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}, Config: config}
	c, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.(*tls.Conn).NetConn().(*net.TCPConn).SetLinger(0) // or the flood runs out of ports
}

// drip sends a byte every now and then.
func drip(ctx context.Context, address, source string, said []byte) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	c, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return
	}
	defer c.Close()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for i := range said {
		if _, err := c.Write(said[i : i+1]); err != nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// TestTLSChangesInMidStream: OpenSSL's client changes its keys in a tunnel and asks
// for ours to be changed (TLS 1.3), and nothing is lost; with TLS 1.2 it asks for
// another handshake, which is refused, and the tunnel ends.
func TestTLSChangesInMidStream(t *testing.T) {
	ca, echo := newAuthority(t), echoServer(t, "127.0.0.1:0")
	d := start(t, ca.tlsListener(""))
	before := d.baseline()
	for _, tt := range []struct {
		name, version, order string
		goesOn               bool
	}{
		{"ours and theirs", "-tls1_3", "K", true},
		{"theirs", "-tls1_3", "k", true},
		{"renegotiation", "-tls1_2", "R", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, program(t, "openssl", "openssl"), "s_client", tt.version, "-connect", d.address, "-CAfile", ca.path("ca.pem"), "-servername", "localhost", "-verify_return_error")
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out := new(lines)
			cmd.Stdout, cmd.Stderr = out, out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			say := func(text string) { _, _ = io.WriteString(in, text) }
			say(fmt.Sprintf("CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n", echo))
			out.await(t, " 200 ")
			say("first\n")
			out.await(t, "first")
			say(tt.order + "\n")
			if !tt.goesOn {
				if err := cmd.Wait(); errors.Is(ctx.Err(), context.DeadlineExceeded) {
					t.Errorf("it did not end: %v", err)
				}
				return
			}
			out.await(t, "KEYUPDATE")
			say("second\n")
			out.await(t, "second")
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
		})
	}
	d.backTo(before)
}

// lines is what a program says.
type lines struct{ written.Text }

// await waits until it has said something.
func (l *lines) await(t *testing.T, what string) {
	t.Helper()
	eventually(t, "it says "+what, func() bool { return strings.Contains(l.String(), what) })
}
