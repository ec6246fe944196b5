// Package upstream reaches destinations through other proxies: it holds the
// forwarding rules, the chains of hops, and the pools of interchangeable
// members with their health and their warm connections.
//
//	router, err := upstream.Compile(upstream.Options{...})
//	for _, pool := range router.Pools() { supervisor.Add(pool) }
//	route := router.Route(upstream.Query{Dest: req.Dest, User: id.User})
//	switch route.Action {
//	case upstream.Direct: // dial route.Dest yourself
//	case upstream.Reject:
//	case upstream.Via:
//		conn, info, err := route.Dial(ctx, route.Dest)
//		defer info.Release()
//	}
package upstream

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"cleversocks/conn/wire"
	"cleversocks/listener/proxyproto"
	"cleversocks/metrics"
)

// Options is everything that a Router is compiled from.
type Options struct {
	Upstreams []Upstream
	Forward   []Rule // the first that matches wins

	// Dial opens a TCP connection to a hop, racing its addresses when the
	// hop is a name. Required when there are upstreams. The connection is
	// the caller's.
	Dial func(ctx context.Context, hop wire.Addr) (*net.TCPConn, error)
	// Resolve is the addresses of a name. It serves hops that accept a
	// connection on one address and fail the handshake there. Optional.
	Resolve func(ctx context.Context, name string) ([]netip.Addr, error)
	// TLS is the base of the configuration for hops over TLS; the server
	// name is set per hop. Optional.
	TLS *tls.Config
	// ConnectTimeout is what a client's request may take over all members that
	// it tries; the handshake with one gets its share. The caller's context
	// bounds the whole. Default 10 s.
	ConnectTimeout time.Duration
	// Rewarm is how connections to hops are made, in any words: when it
	// changes, no pool is taken over with the connections that it has.
	Rewarm  string
	Metrics *metrics.Upstream // required
	Logger  *slog.Logger      // required
	// Previous, on a reload, is the router in force: pools that do not change
	// are taken over, and of others what is known of the members that stay.
	Previous *Router
}

// Upstream is one named way out: a chain of hops (Via), or a pool of members
// of one hop each (Members). Exactly one of the two is set.
type Upstream struct {
	Name string
	// Via is a chain, first hop first, each a URL of [ParseHop] or a file.
	Via []string
	// Members are URLs, or "file:PATH": a file with one URL a line, or a
	// JSON array of them.
	Members []string
	// ResolveLocally says that names are resolved here: [Route.Dial] is then
	// to be given addresses.
	ResolveLocally bool
	Strategy       Strategy
	Health         Health
	Warm           Warm
	// SendProxy is the header that the first hop gets ahead of everything, TLS
	// included. It names the client, so that no connection can be kept warm.
	SendProxy proxyproto.Send
}

// Health says how members are watched.
type Health struct {
	Interval time.Duration // between probes; 0 is 30 s
	Timeout  time.Duration // of one probe; 0 is 5 s
	Failures int           // in a row that take a member out; 0 is 3
}

// Warm says how many connections a member keeps ready.
type Warm struct {
	Size    int           // 0: none; at most MaxWarm
	MaxIdle time.Duration // the age at which one is replaced; 0 is one minute
}

// MaxWarm bounds the connections kept ready per member.
const MaxWarm = 64

// maxMembers bounds a pool, so that a wrong file does not start a hundred
// thousand probes.
const maxMembers = 4096

// Info says how a destination was reached.
type Info struct {
	Upstream string         // the upstream's name
	Member   string         // the member's URL, without credentials
	Local    netip.AddrPort // our end of the connection to the first hop
	Warm     bool           // whether a connection was ready
	Bound    netip.AddrPort // what the last hop said it bound, if it did
	Dest     wire.Addr      // the one of Dial's destinations that was reached
	Parent   *Parent        // the last hop, when [Route.DialPlain] left the request to the caller
	single   bool           // the upstream is a chain, not a pool
	member   *member
	release  func()
}

// Path names the way in records: "upstream", or "upstream/member" of a pool.
func (i Info) Path() string {
	if i.single || i.Member == "" {
		return i.Upstream
	}
	return i.Upstream + "/" + i.Member
}

// Release tells the pool that the tunnel has ended. Call it once, whatever
// became of the connection; it is safe on the zero Info.
func (i Info) Release() {
	if i.release != nil {
		i.release()
	}
}

func (o *Options) setDefaults() {
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = 10 * time.Second
	}
	if o.TLS == nil {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
}

func (u *Upstream) setDefaults() {
	if u.Health.Interval <= 0 {
		u.Health.Interval = 30 * time.Second
	}
	if u.Health.Timeout <= 0 {
		u.Health.Timeout = 5 * time.Second
	}
	if u.Health.Failures <= 0 {
		u.Health.Failures = 3
	}
	if u.Warm.MaxIdle <= 0 {
		u.Warm.MaxIdle = time.Minute
	}
	if u.Strategy == "" {
		u.Strategy = RoundRobin
	}
}
