// Package authsvc knows who a client is: credentials, the whitelist of
// addresses that need no password, and the throttle for those that guess.
package authsvc

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// Method says how a client was admitted.
type Method string

// The ways in. The values appear in logs and metrics.
const (
	MethodNone        Method = "none"        // no authentication is configured
	MethodPassword    Method = "password"    // RFC 1929, or HTTP Basic
	MethodWhitelist   Method = "whitelist"   // no_password_from
	MethodOnce        Method = "once"        // the address authenticated before
	MethodSOCKS4      Method = "socks4"      // a SOCKS4 user id that names a user without a password
	MethodGSSAPI      Method = "gssapi"      // RFC 1961
	MethodCertificate Method = "certificate" // the client certificate's common name
	MethodPeer        Method = "unix"        // the user id at the other end of a unix socket
)

// Methods are all of them.
func Methods() []Method {
	return []Method{
		MethodNone, MethodPassword, MethodWhitelist, MethodOnce, MethodSOCKS4, MethodGSSAPI, MethodCertificate, MethodPeer,
	}
}

// Identity is who a connection belongs to.
type Identity struct {
	User   string // raw bytes as sent; empty when the method names nobody
	Groups []string
	Method Method
	// By is who vouched for the user when the method is MethodOnce, whose
	// clients need not prove it again; else it may be empty.
	By Method
	// secret is what the user logged in with, for users of the settings: an
	// identity does not hold any more when that has changed. A pointer to a
	// pointer, which fmt does not follow.
	secret **secret
	// Account is the user's entry in the settings; nil for users whom
	// Kerberos or a certificate vouches for and the settings don't name.
	Account *Account
	// Parameters are what the client has written behind the user's name.
	Parameters Parameters
}

// voucher is the method of the authenticator that knows the user.
func (id *Identity) voucher() Method {
	if id.By != "" {
		return id.By
	}
	return id.Method
}

// Account is what the settings grant a user. It never changes; a reload makes
// a new one.
type Account struct {
	Name           string
	Groups         []string
	From           []netip.Prefix // empty: from anywhere
	MaxConnections int            // 0: any number
	Up, Down       int64          // bytes a second, from and to the client; 0: no limit
	QuotaBytes     int64          // both ways together; 0: no quota
	QuotaPeriod    time.Duration
	Egress         []netip.Prefix // source addresses: one, or one of a prefix
	MaxAddresses   int            // distinct sources at once, see netaddr.SourceKey; 0: any number
	Validity       Validity
	Note           string // an operator's own words
	Where          string // "file:line" of the entry
	// InFile: the user is a line of the users file, which can be changed while
	// the daemon runs.
	InFile bool

	// removed is set when the user is taken out while the daemon runs. All
	// generations of the account share it; nil: of an account that is in no
	// Users.
	removed *atomic.Bool
	// stamp tells the user's password from another one, within this process.
	stamp uint64
}

// Removed reports whether the user was taken out by Users.Remove.
func (a *Account) Removed() bool { return a.removed != nil && a.removed.Load() }

// AllowsFrom reports whether the user may come from addr, unmapped. The zone of
// a link-local address is of no interest, yet a prefix would never hold it.
func (a *Account) AllowsFrom(addr netip.Addr) bool {
	addr = addr.WithZone("")
	return len(a.From) == 0 || slices.ContainsFunc(a.From, func(p netip.Prefix) bool { return p.Contains(addr) })
}
