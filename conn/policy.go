package conn

import (
	"context"
	"net/netip"
	"time"

	"cleversocks/aclsvc"
	"cleversocks/authsvc"
	"cleversocks/bind"
	"cleversocks/conn/dial"
	"cleversocks/conn/relay"
	"cleversocks/conn/upstream"
	"cleversocks/udprelay"
)

// Policy is one generation of everything that a reload may change under a
// connection. A connection loads it once and never sees two generations. It
// is built completely, stored, and not written to again.
type Policy struct {
	Generation uint64
	Auth       Auth
	ACL        *aclsvc.Policy
	Dialer     *dial.Dialer
	Routes     *upstream.Router // nil: everything goes direct
	Timeouts   Timeouts
	Relay      relay.Options // what every relay of this generation has in common
	// Listeners are the settings of each listener, by its name; see listener.
	Listeners map[string]Listener
	// UDP and Bind serve the two other commands and outlive the policy; nil:
	// the command is not supported.
	UDP  *udprelay.Relay
	Bind *bind.Server
	// AssociateVia says how a client's datagrams reach an upstream: nil, or a
	// nil result, that they leave from here. An association has no one
	// destination, so the client alone decides.
	AssociateVia func(authsvc.Identity, netip.Addr) func(context.Context) (udprelay.Upstream, error)
}

// Auth says who has to prove what before a request is read.
type Auth struct {
	// Required refuses clients that nothing admits.
	Required bool
	// Users checks names and passwords; nil when there are none.
	Users *authsvc.Users
	// SOCKS4Users takes a SOCKS4 user id for the name of a user without a
	// password.
	SOCKS4Users bool
}

// Timeouts bound the phases of a connection.
type Timeouts struct {
	Handshake time.Duration // all of it, from accept to the request
	Connect   time.Duration // through an upstream; the dialer has its own
}

// query is what the rules are asked about a session's request.
func (s *session) query() aclsvc.Query {
	return aclsvc.Query{
		Identity: s.identity,
		Source:   s.client.Addr(),
		Command:  s.request.Command,
		Name:     s.request.Dest.Name,
		Port:     s.request.Dest.Port,
	}
}

// judge is the decision about one resolved address, as an error for the
// dialer: nil lets it be dialed.
func (s *session) judge(addr netip.Addr) error {
	q := s.query()
	return s.settle(s.policy.ACL.Decide(&q, addr))
}

// judgeName refuses before DNS is asked what no address could make right.
func (s *session) judgeName(context.Context) error {
	q := s.query()
	decision, certain := s.policy.ACL.DecideName(&q)
	if !certain {
		return nil
	}
	return s.settle(decision)
}

// settle notes the rule that decided last and turns a refusal into an error.
func (s *session) settle(d aclsvc.Decision) error {
	s.rule = d.Rule
	if d.Allow {
		return nil
	}
	return &deniedError{rule: d.Rule}
}
