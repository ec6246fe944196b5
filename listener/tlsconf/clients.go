package tlsconf

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"cleversocks/conn/textfile"
)

// readFile is the content of a file, without the byte order mark that an
// editor may have put in front of PEM: behind one, the first block would not be
// found.
func readFile(path string) ([]byte, error) {
	raw, err := os.ReadFile(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, err
	}
	text, err := textfile.Trim(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return text, nil
}

// readPool reads a file of CA certificates, and gives the bytes too.
func readPool(path string) (*x509.CertPool, []byte, error) {
	raw, err := readFile(path)
	if err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		return nil, nil, fmt.Errorf("%s: no PEM certificate in it", path)
	}
	return pool, raw, nil
}

// revocations are the certificates that are not to be accepted any more, by
// issuer and serial number.
type revocations map[[2]string]struct{}

func (r revocations) has(c *x509.Certificate) bool {
	_, revoked := r[revocationKey(c)]
	return revoked
}

// Proof is by what a client's certificate was accepted, as far as a later list may
// revoke it. It keeps no certificate.
type Proof struct{ chains [][][2]string }

// ProofOf is that of a connection; nil: its client has shown no certificate.
func ProofOf(state tls.ConnectionState) *Proof {
	if len(state.VerifiedChains) == 0 {
		return nil
	}
	p := &Proof{chains: make([][][2]string, len(state.VerifiedChains))}
	for i, chain := range state.VerifiedChains {
		for _, c := range chain {
			p.chains[i] = append(p.chains[i], revocationKey(c))
		}
	}
	return p
}

// Revokes reports whether the list in force would refuse who came by a proof.
func (d *Door) Revokes(p *Proof) bool {
	revoked := d.current.Load().revoked
	return !slices.ContainsFunc(p.chains, func(chain [][2]string) bool {
		return !slices.ContainsFunc(chain, func(key [2]string) bool { _, is := revoked[key]; return is })
	})
}

// revocationKey is what a list calls a certificate.
func revocationKey(c *x509.Certificate) [2]string {
	return [2]string{string(c.RawIssuer), string(c.SerialNumber.Bytes())}
}

// readCRL reads revocation lists, each signed by one of the CAs: one that
// anybody could have written would let revoked clients in by being empty. A
// list past its date is used on, as the last word there is; the date is that of the
// first to be renewed.
func readCRL(path string, caPEM []byte) (revocations, dated, error) {
	date := dated{what: datedCRL}
	raw, err := readFile(path)
	if err != nil {
		return nil, date, err
	}
	cas, err := certificates(caPEM)
	if err != nil {
		return nil, date, err
	}
	lists := derLists(raw)
	if len(lists) == 0 {
		return nil, date, fmt.Errorf("%s: no revocation list in it", path)
	}
	revoked := make(revocations)
	for _, der := range lists {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, date, fmt.Errorf("%s: %w", path, err)
		}
		if !signedByOne(list, cas) {
			return nil, date, fmt.Errorf("%s: the list of %q is signed by none of client_ca's certificates", path, list.Issuer)
		}
		if list.ThisUpdate.After(time.Now().Add(24 * time.Hour)) {
			return nil, date, fmt.Errorf("%s: the list of %q is from the future (%s)", path, list.Issuer, list.ThisUpdate.Format(time.RFC3339))
		}
		for _, entry := range list.RevokedCertificateEntries {
			revoked[[2]string{string(list.RawIssuer), string(entry.SerialNumber.Bytes())}] = struct{}{}
		}
		if next := list.NextUpdate; !next.IsZero() && (date.until.IsZero() || next.Before(date.until)) {
			date.from, date.until = list.ThisUpdate, next
		}
	}
	return revoked, date, nil
}

func signedByOne(list *x509.RevocationList, cas []*x509.Certificate) bool {
	for _, ca := range cas {
		if bytes.Equal(ca.RawSubject, list.RawIssuer) && list.CheckSignatureFrom(ca) == nil {
			return true
		}
	}
	return false
}

// derLists are the lists in a file, which is PEM or one list in DER.
func derLists(raw []byte) [][]byte {
	var out [][]byte
	rest := raw
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "X509 CRL" {
			out = append(out, block.Bytes)
		}
	}
	if len(out) == 0 && len(raw) > 0 && raw[0] == 0x30 { // an ASN.1 SEQUENCE
		out = append(out, raw)
	}
	return out
}

func certificates(caPEM []byte) ([]*x509.Certificate, error) {
	if len(caPEM) == 0 {
		return nil, errors.New("a revocation list needs client_ca")
	}
	var out []*x509.Certificate
	for rest := caPEM; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out, nil
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
}
