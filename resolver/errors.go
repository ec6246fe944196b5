package resolver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"

	"cleversocks/metrics"
)

// The failures of a look-up. Every error of Lookup wraps one of them, or the
// cause of its context.
var (
	// ErrNotFound says that the name does not exist (NXDOMAIN) or has no
	// address of the family that was asked for.
	ErrNotFound = errors.New("no such host")
	// ErrNoAddress comes with ErrNotFound: the name exists, and may well have
	// an address of the other family.
	ErrNoAddress = errors.New("no address of this family")
	// ErrTimeout says that no server answered in time.
	ErrTimeout = errors.New("name servers did not answer in time")
	// ErrServers says that every server failed or refused.
	ErrServers = errors.New("name servers failed")
	// ErrClosed says that the resolver was closed.
	ErrClosed = errors.New("resolver closed")
)

// Why an answer is not believed. A datagram that fails is dropped and the
// next one awaited, since anybody may have sent it; on a stream it is the
// server's own fault and fails the query.
var (
	errMalformed = errors.New("malformed answer")
	errID        = errors.New("answer to another query")
	errQuestion  = errors.New("answer to another question")
	errCase      = errors.New("answer spells the question otherwise")
	errPoisoned  = errors.New("answer about other names")
)

// dropReason is the metric label of an answer that is not believed.
func dropReason(err error) string {
	switch {
	case errors.Is(err, errID):
		return "id"
	case errors.Is(err, errQuestion):
		return "question"
	case errors.Is(err, errCase):
		return "case"
	case errors.Is(err, errPoisoned):
		return "poisoned"
	}
	return "malformed"
}

// outcomeOf is the metric label of one query's end.
func outcomeOf(err error) string {
	switch {
	case err == nil:
		return metrics.DNSOK
	case errors.Is(err, ErrNotFound):
		return metrics.DNSNotFound
	case errors.Is(err, context.Canceled):
		return metrics.DNSCancelled
	case isTimeout(err):
		return metrics.DNSTimeout
	case isTLS(err):
		return metrics.DNSTLS
	case errors.Is(err, errRefused):
		return metrics.DNSRefused
	case errors.Is(err, errMalformed), errors.Is(err, errID), errors.Is(err, errQuestion),
		errors.Is(err, errCase), errors.Is(err, errPoisoned):
		return metrics.DNSMalformed
	}
	return metrics.DNSError
}

func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	netErr, ok := errors.AsType[net.Error](err)
	return ok && netErr.Timeout()
}

func isTLS(err error) bool {
	_, cert := errors.AsType[*tls.CertificateVerificationError](err)
	_, alert := errors.AsType[tls.AlertError](err)
	_, record := errors.AsType[tls.RecordHeaderError](err)
	_, host := errors.AsType[x509.HostnameError](err)
	return cert || alert || record || host
}
