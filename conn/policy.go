package conn

import (
	"context"
	"time"

	"cleversocks/aclsvc"
	"cleversocks/authsvc"
	"cleversocks/bind"
	"cleversocks/conn/adopt"
	"cleversocks/conn/dial"
	"cleversocks/conn/relay"
	"cleversocks/conn/upstream"
	"cleversocks/metrics"
	"cleversocks/udprelay"
)

// Policy is one generation of everything that a reload may change under a
// connection. A connection loads it once and never sees two generations. It
// is built completely, stored, and not written to again.
type Policy struct {
	Generation uint64
	Auth       *authsvc.Admission // who has to prove what before a request is read
	ACL        *aclsvc.Policy
	Decisions  metrics.CounterVec2 // of ACL, by action and rule
	Revoke     bool                // see Group.Revoke
	Dialer     *dial.Dialer
	Sockets    adopt.Options    // what listeners and the Dialer set on their sockets
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
	AssociateVia func(upstream.Query, upstream.Origin) func(context.Context) (udprelay.Upstream, error)
}

// lasting is what an association asks of its own generation for as long as it lasts, which
// may be months: where its datagrams leave. They are judged by the rules of the time,
// and those of before, which may be many megabytes, are not kept for it.
func (p *Policy) lasting(listener string) *Policy {
	l := p.listener(listener)
	return &Policy{
		Generation: p.Generation, Dialer: p.Dialer, Routes: p.Routes, Relay: p.Relay, Timeouts: p.Timeouts,
		Listeners: map[string]Listener{listener: {Egress: l.Egress, SameEgress: l.SameEgress, Advertise: l.Advertise}},
	}
}

// Timeouts bound the phases of a connection.
type Timeouts struct {
	Handshake time.Duration // all of it, from accept to the request
	Connect   time.Duration // through an upstream; the dialer has its own
}
