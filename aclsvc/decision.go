// Package aclsvc decides who may reach what. Rules are compiled once into a
// Policy; a decision is pure: it reads its arguments and the compiled rules,
// and neither waits, allocates nor calls up.
package aclsvc

// Decision is what the rules say of one request and one address.
type Decision struct {
	Allow bool
	// Rule names what decided, for logs and metrics: "acl.rules[3]",
	// "default", "block_private", "own_listener".
	Rule string
}
