// Package bind serves the BIND command of SOCKS5 (RFC 1928 §4 and §6) and
// SOCKS4: a port is opened, the client is told, and the one peer that it
// expects connects to it. Active-mode FTP is what it is for.
//
//	server := bind.New(bind.ServerOptions{Metrics: registry, AcceptTimeout: 2 * time.Minute})
//	...
//	result := server.Serve(ctx, bind.Request{Control: conn, Requested: request.Dest, Decide: ..., Reply: ...})
//	if result.Peer != nil {
//		defer result.Peer.Close()
//		// write result.Early to the peer, then relay
//	}
package bind

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"cleversocks/aclsvc"
	"cleversocks/aclsvc/ratelimit"
	"cleversocks/authsvc"
	"cleversocks/conn/adopt"
	"cleversocks/conn/cause"
	"cleversocks/conn/netaddr"
	"cleversocks/conn/task"
	"cleversocks/conn/wire"
	"cleversocks/metrics"
)

// ServerOptions is what all BINDs share. Zero values are the defaults.
type ServerOptions struct {
	Disabled      bool              // refuse: reply 07
	Ports         netaddr.PortRange // what is opened
	AcceptTimeout time.Duration     // how long a peer is waited for. 0: 2 minutes
	// AnyPeer accepts whoever connects and the rules allow. Otherwise the
	// peer's address must be that of DST.ADDR; its port is its own business.
	AnyPeer bool
	// MaxPerUser bounds how many a user waits for at once, in all processes; clients
	// without a name count by address, IPv6 by /64. 0: no bound.
	MaxPerUser int
	// Sockets are options of the peers' sockets, which Control may add to before the
	// port is bound; nil: it adds none.
	Sockets adopt.Options
	Control func(network, address string, c syscall.RawConn) error

	Metrics *metrics.Registry // nil: a private one
	Seats   *ratelimit.Seats  // where waits count; nil: of this Server alone
	Panics  *task.Reporter    // nil: they are contained, and nobody hears of them
}

// Request is one BIND request, and what its connection knows.
type Request struct {
	// Control is the connection that carried the request. Serve reads from it
	// while it waits, and leaves it open, without a deadline.
	Control Control
	// Client is where the client is, after any PROXY header.
	Client netip.AddrPort
	// Requested is the peer that the client expects. All zeros means that the
	// client does not know: any peer that the rules allow is accepted. A name
	// is resolved, and any of its addresses may connect.
	Requested wire.Addr
	Identity  authsvc.Identity

	// Advertise is the address told to the client instead of the control
	// connection's local one, for servers behind NAT. May be invalid.
	Advertise netip.Addr

	// Facing is where a peer at an address looks for this host, which is where our
	// connections to it come from, and what sets up a socket there (nil: nothing). An
	// invalid peer is anyone; here is where the client came to. An invalid address says
	// that the port belongs there, as without Facing.
	Facing func(peer, here netip.Addr) (at netip.Addr, setUp SetUp, err error)
	// Decide judges the peer that connected. Where the client named it, and it
	// is one of the name's addresses, it is judged by that name too.
	Decide func(peer wire.Addr, addr netip.Addr) aclsvc.Decision
	// Complete turns a relative name into the one that answers for it, which
	// Resolve and Decide are then given. Nil: every name is complete.
	Complete func(ctx context.Context, dest wire.Addr) (wire.Addr, error)
	// Resolve finds the addresses of a requested name.
	Resolve func(ctx context.Context, dest wire.Addr) ([]netip.Addr, error)
	// ReplyCode maps an error of Resolve. Nil: host unreachable.
	ReplyCode func(error) wire.ReplyCode
	// Reply writes a reply. It is called once when the request fails at once,
	// else twice: with the address to connect to, then with the peer's address
	// or the reason that none came.
	Reply func(code wire.ReplyCode, addr netip.AddrPort) error
}

// SetUp is as Control of net.ListenConfig.
type SetUp = func(network, address string, c syscall.RawConn) error

// Control is what a BIND needs of the connection that carried its request.
type Control interface {
	io.Reader
	SetReadDeadline(t time.Time) error
	LocalAddr() net.Addr
}

// Result is what a BIND came to.
type Result struct {
	// Peer is the accepted connection, told to the client already. The caller
	// owns it. Nil when there is none.
	Peer *net.TCPConn
	// PeerAddr is where it came from, unmapped.
	PeerAddr netip.AddrPort
	// Judged is what Decide was asked about it.
	Judged wire.Addr
	// Early is what the client sent before it had the second reply; it belongs
	// to the peer.
	Early []byte

	Bound netip.AddrPort // told to the client; invalid when refused at once
	Rule  string         // that allowed the peer, or denied the last one
	Reply wire.ReplyCode // the last that was sent
	// Cause is one of package cause when there is no peer. When ctx ended it
	// is cause.Drained, and Err is context.Cause(ctx).
	Cause string
	Err   error
}

// Server serves BINDs. Its methods may be called at any time.
type Server struct {
	options atomic.Pointer[ServerOptions]
	metrics *metrics.Registry
	panics  *task.Reporter
	seats   *ratelimit.Seats
}

// New makes a Server. Metrics, Seats and Panics are fixed here, the rest of the options can be
// changed by Configure.
func New(o ServerOptions) *Server {
	if o.Metrics == nil {
		o.Metrics = metrics.New()
	}
	if o.Seats == nil {
		o.Seats = new(ratelimit.Seats)
	}
	s := &Server{metrics: o.Metrics, panics: o.Panics, seats: o.Seats}
	s.Configure(o)
	return s
}

// Configure applies new options to BINDs from now on.
func (s *Server) Configure(o ServerOptions) {
	if o.AcceptTimeout <= 0 {
		o.AcceptTimeout = 2 * time.Minute
	}
	s.options.Store(&o)
}

// Serve runs one BIND up to its second reply. The listener is closed, and
// every goroutine has ended, when it returns.
func (s *Server) Serve(ctx context.Context, request Request) Result {
	o := s.options.Load()
	if o.Disabled {
		return s.refuse(request, Result{Reply: wire.ReplyCommandNotSupported, Cause: cause.Denied, Err: errDisabled})
	}
	seat := ratelimit.SeatOf(request.Identity.User, request.Client.Addr())
	if s.seats.Take(seat, ratelimit.Bounds{PerSeat: o.MaxPerUser}) != ratelimit.Admitted {
		s.metrics.Limits.Of(metrics.LimitBinds).Inc()
		return s.refuse(request, Result{Reply: wire.ReplyNotAllowed, Cause: cause.Denied, Err: errTooMany})
	}
	defer s.seats.Return(seat)

	peers, err := expected(ctx, &request, o)
	if err != nil {
		return s.refuse(request, unresolved(request, err))
	}
	at, setUp, err := facing(&request, peers)
	if err != nil {
		return s.refuse(request, unresolved(request, err))
	}
	l, err := listen(ctx, at, setUp, o)
	if err != nil {
		s.metrics.Limits.Of(metrics.LimitBindPorts).Inc()
		return s.refuse(request, Result{Reply: wire.ReplyGeneralFailure, Cause: cause.Error, Err: err})
	}
	w := &wait{server: s, request: request, listener: l, sockets: o.Sockets, peers: peers}
	s.metrics.Bind.Waiting.Add(1)
	defer s.metrics.Bind.Waiting.Add(-1)
	return w.run(ctx, o.AcceptTimeout)
}

// refuse sends the only reply of a request that came to nothing at once.
func (s *Server) refuse(request Request, r Result) Result {
	s.metrics.Bind.Peers.Of(metrics.BindRefused).Inc()
	if err := request.Reply(r.Reply, netip.AddrPort{}); err != nil && r.Err == nil {
		r.Err = err
	}
	return r
}

// unresolved is the result of a request whose peer has no address.
func unresolved(request Request, err error) Result {
	code := wire.ReplyHostUnreachable
	if request.ReplyCode != nil && !errors.Is(err, errNoPeers) {
		code = request.ReplyCode(err)
	}
	return Result{Reply: code, Cause: cause.DialFailed, Err: err}
}
