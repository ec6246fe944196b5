//go:build linux

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// TLS from the client to the proxy, and plain bytes from there on: what a TLS
// door does, and what haproxy and stunnel are put in front of other servers for.
// These two know their destination beforehand: see instance.backend. All of them
// use TLS_AES_128_GCM_SHA256, which each would choose by itself or not.

// writeIdentity writes a certificate and its key: cert, key, and both in pem.
func writeIdentity(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "cert"), certPEM, 0o600),
		os.WriteFile(filepath.Join(dir, "key"), keyPEM, 0o600),
		os.WriteFile(filepath.Join(dir, "pem"), append(certPEM, keyPEM...), 0o600),
	)
}

func haproxyConfig(i *instance) string {
	return fmt.Sprintf(`global
  maxconn 6000
defaults
  mode tcp
  timeout client 10m
  timeout server 10m
  timeout connect 5s
listen tls
  bind %s ssl crt %s/pem ciphersuites TLS_AES_128_GCM_SHA256
  server s %s
`, i.address, i.dir, i.backend)
}

func stunnelConfig(i *instance) string {
	return fmt.Sprintf(`foreground = yes
pid =
syslog = no
debug = 4
[tls]
accept = %s
connect = %s
cert = %s/pem
ciphersuites = TLS_AES_128_GCM_SHA256
`, i.address, i.backend, i.dir)
}

// dialTLS opens a connection through a TLS proxy to the server at its backend. A
// proxy that speaks SOCKS is asked for it.
func dialTLS(ctx context.Context, p *instance) (*tls.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	raw, err := dialer.DialContext(ctx, "tcp4", p.address)
	if err != nil {
		return nil, err
	}
	c := tls.Client(raw, &tls.Config{
		InsecureSkipVerify: true, MinVersion: tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{tls.X25519}, DynamicRecordSizingDisabled: true,
	})
	if err = raw.SetDeadline(time.Now().Add(dialTimeout)); err == nil {
		err = c.HandshakeContext(ctx)
	}
	if err == nil && c.ConnectionState().CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		err = errors.New("another cipher than the others have")
	}
	if err == nil && p.speaksSOCKS {
		var target *net.TCPAddr
		if target, err = net.ResolveTCPAddr("tcp4", p.backend); err == nil {
			err = connect(c, target)
		}
	}
	if err == nil {
		err = raw.SetDeadline(time.Time{})
	}
	if err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return c, nil
}

func dialManyTLS(ctx context.Context, p *instance, n int) (conns []*tls.Conn, closeAll func(), err error) {
	closeAll = func() {
		for _, c := range conns {
			_ = c.NetConn().Close() // without a goodbye that would have to wait for room
		}
	}
	for range n {
		c, err := dialTLS(ctx, p)
		if err != nil {
			return conns, closeAll, err
		}
		conns = append(conns, c)
	}
	return conns, closeAll, nil
}

// bulkTLS moves bytes one way: down from the server, which the proxy encrypts, or
// up to it, which it decrypts.
func bulkTLS(name string, up bool) func(context.Context, options, *instance) ([]value, error) {
	return func(ctx context.Context, o options, p *instance) ([]value, error) {
		var total atomic.Int64
		count := func(r io.Reader) {
			b := make([]byte, 256<<10)
			for ended := error(nil); ended == nil; { // by closing, below
				var n int
				n, ended = r.Read(b)
				total.Add(int64(n))
			}
		}
		far := source
		if up {
			far = func(c *net.TCPConn) { count(c) }
		}
		s, err := serveAt(p.backend, far)
		if err != nil {
			return nil, err
		}
		defer s.close()
		conns, closeAll, err := dialManyTLS(ctx, p, 1)
		if err != nil {
			closeAll()
			return nil, err
		}
		var w workers
		w.run(func() error {
			if !up {
				count(conns[0])
				return nil
			}
			b := make([]byte, 256<<10)
			for ended := error(nil); ended == nil; {
				_, ended = conns[0].Write(b)
			}
			return nil
		})
		var first, last int64
		sp, err := load(ctx, p, o.duration, func() { first, last = last, total.Load() })
		closeAll()
		_ = w.wait()
		if err != nil {
			return nil, err
		}
		gib := float64(last-first) / (1 << 30)
		return []value{{name + ".rate", gib / sp.wall.Seconds()}, {name + ".cpu", sp.cpu.Seconds() / gib}}, nil
	}
}

// idleTLS is idle, for tunnels whose client side is TLS.
func idleTLS(ctx context.Context, o options, p *instance) ([]value, error) {
	s, err := serveAt(p.backend, echo)
	if err != nil {
		return nil, err
	}
	defer s.close()
	once := func(n int) (closeAll func(), err error) {
		conns, closeAll, err := dialManyTLS(ctx, p, n)
		for _, c := range conns {
			if err == nil {
				err = useOnce(c, false)
			}
		}
		if err != nil {
			closeAll()
			return nil, err
		}
		return closeAll, pause(ctx, settle)
	}
	end, err := once(50) // what the first connections cost once
	if err != nil {
		return nil, err
	}
	end()
	if err = pause(ctx, settle); err != nil {
		return nil, err
	}
	before, err := p.usage.footprint()
	if err != nil {
		return nil, err
	}
	end, err = once(o.relays)
	if err != nil {
		return nil, err
	}
	defer end()
	after, err := p.usage.footprint()
	if err != nil {
		return nil, err
	}
	return perRelay("tlsidle", before, after, o.relays), nil
}
