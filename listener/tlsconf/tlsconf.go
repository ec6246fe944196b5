// Package tlsconf is what TLS listeners need: a certificate that is replaced
// while connections go on, client certificates with a revocation list, session
// tickets with keys that change, and certificates from an ACME server.
//
//	keeper := tlsconf.NewKeeper(tlsconf.KeeperOptions{Log: log, Panics: panics})
//	supervisor.Add(keeper)
//	door, err := keeper.Open(tlsconf.Options{Name: "office", Cert: "tls.crt", Key: "tls.key"})
//	tlsConn := tls.Server(conn, door.Config())
//	...
//	door.Close()
//
// The keeper reads the files again when they change; so does Prepare, on a
// reload. A connection keeps what it began with.
package tlsconf

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
)

// Options are a listener's [listener.tls].
type Options struct {
	Name      string // of the listener, for logs
	Cert, Key string // PEM files: the certificate with its chain, and its key
	ClientCA  string // PEM file: who may vouch for clients; "": clients need no certificate
	CRL       string // PEM or DER file: client certificates that are revoked
	HTTP2     bool   // offer h2 by ALPN
	ACME      *ACME  // instead of Cert and Key
}

// Door is the TLS of one listener. It is safe for use by many goroutines.
type Door struct {
	keeper  *Keeper
	options Options
	issuer  *issuer     // nil without ACME
	config  *tls.Config // hands out current's
	current atomic.Pointer[material]
	told    map[dated]phase // by Keeper.tell; the keeper's mutex guards it
}

// material is everything that was read from files, and the configuration made
// of it. It never changes.
type material struct {
	files   fileStates
	config  *tls.Config // of this material
	plain   *tls.Config // the same without ALPN
	proof   *tls.Config // for an ACME server's challenge; nil without ACME
	revoked revocations
	leaf    *x509.Certificate // nil with ACME
	dates   []dated           // what of it is good until a time only
}

// Open reads the files. What it returns must be closed when nothing is accepted
// by it any more.
func (k *Keeper) Open(o Options) (*Door, error) {
	d := k.door(o)
	m, err := d.read()
	if err != nil {
		return nil, err
	}
	d.current.Store(m)
	d.config = &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: d.configFor}
	for _, dated := range m.dates {
		d.told[dated] = dated.phase(time.Now())
	}
	k.add(d)
	return d, nil
}

func (k *Keeper) door(o Options) *Door {
	d := &Door{keeper: k, options: o, told: make(map[dated]phase)}
	if o.ACME != nil {
		d.issuer = k.issuer(o.ACME)
	}
	return d
}

// Check reads the files of a door that is not opened. Its warnings are about what
// is past its date, or soon will be.
func Check(o Options) (warnings []string, err error) {
	m, err := NewKeeper(KeeperOptions{}).door(o).read()
	if err != nil {
		return nil, err
	}
	for _, d := range m.dates {
		if w := d.warning(time.Now()); w != "" {
			warnings = append(warnings, w)
		}
	}
	return warnings, nil
}

// Close ends the watch over the door's files. Its connections go on.
func (d *Door) Close() {
	d.keeper.remove(d)
	d.forget(d.current.Load())
}

// Config is for tls.Server. Each connection gets the material in force when
// its handshake begins.
func (d *Door) Config() *tls.Config { return d.config }

// Waits says whether a handshake may have to wait for a certificate, and should
// end with its connection meanwhile.
func (d *Door) Waits() bool { return d.issuer != nil }

// Leaf is the certificate in force; nil with ACME.
func (d *Door) Leaf() *x509.Certificate { return d.current.Load().leaf }

// configFor picks the configuration for one client. A client that offers only
// protocols that are not known here is served without one: many SOCKS clients
// behind TLS tunnels send whatever their library has.
func (d *Door) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	m := d.current.Load()
	if m.proof != nil && forChallenge(hello) {
		return m.proof, nil
	}
	if len(hello.SupportedProtos) > 0 && !slices.ContainsFunc(hello.SupportedProtos, func(p string) bool {
		return slices.Contains(m.config.NextProtos, p)
	}) {
		return m.plain, nil
	}
	return m.config, nil
}

// cipherSuites are those of TLS 1.2 with forward secrecy and authenticated
// encryption; TLS 1.3 has no others.
var cipherSuites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// read makes the material from the files as they are now.
func (d *Door) read() (*material, error) {
	m := &material{files: d.options.stat()}
	c := &tls.Config{
		MinVersion: tls.VersionTLS12, CipherSuites: cipherSuites, NextProtos: []string{"http/1.1"},
		// Else the first 128 KiB of every tunnel go out in a hundred records.
		DynamicRecordSizingDisabled: true,
	}
	if d.options.HTTP2 {
		c.NextProtos = []string{"h2", "http/1.1"}
	}
	if err := d.readCertificate(m, c); err != nil {
		return nil, err
	}
	var caPEM []byte
	if d.options.ClientCA != "" {
		pool, pem, err := readPool(d.options.ClientCA)
		if err != nil {
			return nil, fmt.Errorf("tls.client_ca: %w", err)
		}
		caPEM = pem
		c.ClientCAs, c.ClientAuth = pool, tls.RequireAndVerifyClientCert
		cas, err := certificates(caPEM)
		if err != nil {
			return nil, fmt.Errorf("tls.client_ca: %w", err)
		}
		m.dates = append(m.dates, lastOf(cas))
	}
	if d.options.CRL != "" {
		revoked, until, err := readCRL(d.options.CRL, caPEM)
		if err != nil {
			return nil, fmt.Errorf("tls.crl: %w", err)
		}
		m.revoked, m.dates = revoked, append(m.dates, until)
		c.VerifyConnection = m.verify // runs for resumed sessions too
	}
	m.config = c
	m.plain = c.Clone()
	m.plain.NextProtos = nil
	// Doors that accept the same clients share their tickets, others must not:
	// one door's ticket would carry a client past another's client_ca.
	d.keeper.tickets.use(m.config, caPEM)
	d.keeper.tickets.use(m.plain, caPEM)
	return m, nil
}

func (d *Door) readCertificate(m *material, c *tls.Config) error {
	if d.issuer != nil {
		c.GetCertificate = d.issuer.certificate
		m.proof = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: d.issuer.certificate, NextProtos: []string{acme.ALPNProto}}
		return nil
	}
	cert, err := readFile(d.options.Cert)
	if err != nil {
		return fmt.Errorf("tls.cert: %w", err)
	}
	key, err := readFile(d.options.Key)
	if err != nil {
		return fmt.Errorf("tls.key: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("tls.cert, tls.key: %w", err)
	}
	c.Certificates, m.leaf = []tls.Certificate{pair}, pair.Leaf
	m.dates = append(m.dates, dated{datedCertificate, pair.Leaf.NotBefore, pair.Leaf.NotAfter})
	return nil
}

// IsChallenge reports a connection that an ACME server made to see that the
// name is ours. Its handshake was all that it wanted.
func IsChallenge(state tls.ConnectionState) bool { return state.NegotiatedProtocol == acme.ALPNProto }

// ErrRevoked is a client certificate that is on the revocation list.
var ErrRevoked = errors.New("the client certificate is revoked")

// verify refuses client certificates that were revoked, or whose issuer was.
func (m *material) verify(state tls.ConnectionState) error {
	for _, chain := range state.VerifiedChains {
		if !slices.ContainsFunc(chain, m.revoked.has) {
			return nil
		}
	}
	if len(state.PeerCertificates) == 0 {
		return nil
	}
	return ErrRevoked
}
