// Package resolver resolves names. (doc follows)
package resolver

import "errors"

// The failures of a look-up. Every error of Lookup wraps one of them, or the
// cause of its context.
var (
	// ErrNotFound says that the name does not exist (NXDOMAIN) or has no
	// address of the family that was asked for.
	ErrNotFound = errors.New("no such host")
	// ErrTimeout says that no server answered in time.
	ErrTimeout = errors.New("name servers did not answer in time")
	// ErrServers says that every server failed or refused.
	ErrServers = errors.New("name servers failed")
	// ErrClosed says that the resolver was closed.
	ErrClosed = errors.New("resolver closed")
)
