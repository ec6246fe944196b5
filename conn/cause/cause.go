// Package cause names the reasons for which a connection ends, as the access
// record's "cause" and the metrics tell them. What decides an end (the handshake,
// the relay, the two other commands) and what records it both know these names,
// and nothing else of each other.
package cause

import "slices"

// The causes. Dashboards and filters depend on the names: they do not change.
const (
	ClientClosed     = "client_closed"     // the client ended the stream, or left during a dial
	ServerClosed     = "server_closed"     // the server, or an upstream, ended the stream
	ClientReset      = "client_reset"      // the client broke the connection, or fell off the network
	ServerReset      = "server_reset"      // the server did
	Idle             = "idle"              // nothing moved for as long as the settings allow
	Drained          = "drained"           // the daemon ends
	Revoked          = "revoked"           // rules of now refuse the session, or an operator ended it
	Quota            = "quota"             // the user's bytes are used up
	Denied           = "denied"            // rules, limits or a failed log-in refused it
	DialFailed       = "dial_failed"       // its destination was not reached
	HandshakeFailed  = "handshake_failed"  // the client's bytes made no request
	HandshakeTimeout = "handshake_timeout" // the client's request came too late, or not at all
	Refused          = "refused"           // at accept: a limit, a ban, a list; it was never served
	Error            = "error"             // anything else; the record's "err" says what
)

// tunnel are the causes that end what had begun.
var tunnel = []string{ClientClosed, ServerClosed, ClientReset, ServerReset, Idle, Drained, Revoked, Quota, Error}

// Tunnel are the causes for which a relay may end, and All are those of any
// connection.
func Tunnel() []string { return slices.Clone(tunnel) }

// All are the causes that a record may have.
func All() []string {
	return append(Tunnel(), Denied, DialFailed, HandshakeFailed, HandshakeTimeout, Refused)
}
