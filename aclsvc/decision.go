// Package aclsvc decides who may reach what. Rules are compiled once into a
// Policy; a decision is pure: it reads its arguments and the compiled rules,
// and neither waits, allocates nor calls up.
//
//	policy, err := aclsvc.Compile(aclsvc.Options{Rules: rules, DefaultAllow: true, BlockPrivate: true})
//	q := aclsvc.Query{Identity: id, Source: client, Command: wire.CommandConnect, Name: "example.com", Port: 443}
//	if d, certain := policy.DecideName(&q); certain && !d.Allow {
//		// refuse, DNS is not asked
//	}
//	if d := policy.Decide(&q, resolved); !d.Allow {
//		// this address drops out
//	}
package aclsvc

import (
	"net/netip"

	"cleversocks/authsvc"
	"cleversocks/conn/wire"
)

// What decides besides a rule, as Decision.Rule says it.
const (
	ByDefault      = "default"       // no rule matched
	ByBlockPrivate = "block_private" // not a public address, and no CIDR rule allows it
	ByOwnListener  = "own_listener"  // the proxy itself: a loop
	ByBadAddress   = "bad_address"   // the address is not valid
	ByPanic        = "panic"         // the decision panicked
)

// Decision is what the rules say of one request and one address.
type Decision struct {
	Allow bool
	// Reported: report_only is on, and without it this would be a denial.
	Reported bool
	// Rule names what decided, for logs and metrics: "acl.rules[3]",
	// "default", "block_private", "own_listener".
	Rule string
	// Where is the "file:line" of the rule; empty when no rule decided.
	Where string
}

// Query is one request without its address. Its fields are as the codecs and
// the listener make them: Source unmapped, Name in the form of
// wire.NormalizeName, or empty when the client asked for an address.
type Query struct {
	Identity authsvc.Identity
	Source   netip.Addr
	Listener string // the name of the one that the client came to
	Command  wire.Command
	Name     string
	Port     uint16
	// Asked is the name as the client asked for it, where a search list made
	// Name of it. If it is a single label, rules that have it in "to" concern the
	// request as well: who allows "wiki" means the host that it stands for. A name
	// with dots is a name of its own, which a search list must not stretch.
	Asked string
}
