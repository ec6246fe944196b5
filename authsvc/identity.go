// Package authsvc knows who a client is: credentials, the whitelist of
// addresses that need no password, and the throttle for those that guess.
package authsvc

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
)

// Identity is who a connection belongs to.
type Identity struct {
	User   string // raw bytes as sent; empty when the method names nobody
	Groups []string
	Method Method
}
