package tlsconf

import (
	"crypto/tls"
	"crypto/x509"
)

// Names are those that a client's verified certificate gives its owner, the
// most telling first: SPIFFE IDs (they are URIs), the common name, DNS names.
// Empty: there is no verified certificate.
func Names(state tls.ConnectionState) []string {
	if len(state.VerifiedChains) == 0 {
		return nil
	}
	return namesOf(state.VerifiedChains[0][0])
}

func namesOf(leaf *x509.Certificate) []string {
	var names []string
	for _, uri := range leaf.URIs {
		if uri.Scheme == "spiffe" {
			names = append(names, uri.String())
		}
	}
	if leaf.Subject.CommonName != "" {
		names = append(names, leaf.Subject.CommonName)
	}
	return append(names, leaf.DNSNames...)
}
