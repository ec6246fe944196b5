package conn

import (
	"time"

	"cleversocks/aclsvc"
	"cleversocks/authsvc"
	"cleversocks/conn/dial"
	"cleversocks/conn/relay"
	"cleversocks/metrics"
)

// Policy is one generation of everything that a reload may change under a
// connection. A connection loads it once and never sees two generations. It
// is built completely, stored, and not written to again.
type Policy struct {
	Generation uint64
	Auth       Auth
	ACL        *aclsvc.Policy
	Decisions  metrics.CounterVec2 // of ACL, by action and rule
	Revoke     bool                // see Group.Revoke
	Dialer     *dial.Dialer
	Timeouts   Timeouts
	Relay      relay.Options // what every relay of this generation has in common
}

// Auth says who has to prove what before a request is read.
type Auth struct {
	// Required refuses clients that nothing admits.
	Required bool
	// Whitelist needs no password; nil: nobody is on it.
	Whitelist *authsvc.Whitelist
	// Once lets in again the addresses that Guards.Once knows.
	Once bool
	// Users checks names and passwords; nil when there are none.
	Users *authsvc.Users
}

// Timeouts bound the phases of a connection.
type Timeouts struct {
	Handshake time.Duration // all of it, from accept to the request
}
