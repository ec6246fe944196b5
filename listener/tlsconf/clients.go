package tlsconf

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
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
	_, revoked := r[[2]string{string(c.RawIssuer), string(c.SerialNumber.Bytes())}]
	return revoked
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
