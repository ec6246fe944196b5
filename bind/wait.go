package bind

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"cleversocks/conn/adopt"
	"cleversocks/conn/cause"
	"cleversocks/conn/netaddr"
	"cleversocks/conn/reset"
	"cleversocks/conn/task"
	"cleversocks/conn/wire"
	"cleversocks/metrics"
)

// earlyBytes is what a client may send ahead of the second reply.
const earlyBytes = 4096

var (
	errDisabled  = errors.New("bind is turned off")
	errTooMany   = errors.New("too many binds of this user")
	errNoPeers   = errors.New("the expected peer has no address")
	errTimeout   = errors.New("no peer connected in time")
	errClient    = errors.New("client closed the control connection")
	errClientRST = errors.New("client reset the control connection")
)

// wait is one BIND between its two replies.
type wait struct {
	server   *Server
	request  Request
	listener *net.TCPListener
	sockets  adopt.Options
	peers    []netip.Addr // who may connect; nil: anyone
	bound    netip.AddrPort
	rule     string
	judged   wire.Addr
}

// run replies, waits for the peer, and replies again. It closes the listener.
func (w *wait) run(ctx context.Context, timeout time.Duration) Result {
	defer func() { _ = w.listener.Close() }()
	local := w.listener.Addr().(*net.TCPAddr).AddrPort()
	w.bound = netaddr.PlainPort(local)
	if ip := netaddr.Plain(w.request.Advertise); ip.IsValid() && ip.Is4() == w.bound.Addr().Is4() {
		w.bound = netip.AddrPortFrom(ip, local.Port())
	}
	_ = w.request.Control.SetReadDeadline(time.Time{}) // the handshake's
	if err := w.request.Reply(wire.ReplySucceeded, w.bound); err != nil {
		return Result{Bound: w.bound, Cause: cause.ClientClosed, Err: err}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	defer cancel()
	peer, early, err := w.accept(ctx)
	_ = w.listener.Close() // exactly one peer: a second one is refused from here on
	if err != nil {
		return w.failed(err)
	}
	return w.connected(peer, early)
}

// errAccepted ends the scope of a wait as planned.
var errAccepted = errors.New("the peer is here")

// accept waits for the peer while it watches the control connection: two
// goroutines of one scope, which the first to come to an end ends.
func (w *wait) accept(ctx context.Context) (*net.TCPConn, []byte, error) {
	scope, ctx := task.New(ctx, w.server.panics, "bind")
	past := time.Unix(1, 0)
	defer context.AfterFunc(ctx, func() {
		_ = w.listener.SetDeadline(past)
		_ = w.request.Control.SetReadDeadline(past)
	})()
	var (
		peer  *net.TCPConn
		early []byte
	)
	scope.Go(func() (err error) {
		early, err = watch(w.request.Control)
		return err
	})
	scope.Go(func() (err error) {
		if peer, err = w.acceptPeer(ctx); err != nil {
			return err
		}
		return errAccepted
	})
	err := scope.Wait()
	_ = w.request.Control.SetReadDeadline(time.Time{})
	if errors.Is(err, errAccepted) {
		return peer, early, nil
	}
	if peer != nil { // the client left just as the peer came
		_ = peer.Close()
	}
	return nil, nil, err
}

// acceptPeer accepts until the right peer is there. Wrong ones are closed,
// and the wait goes on: anybody may connect to an open port.
func (w *wait) acceptPeer(ctx context.Context) (*net.TCPConn, error) {
	for {
		peer, err := w.listener.AcceptTCP()
		if ctx.Err() != nil {
			if err == nil {
				_ = peer.Close()
			}
			return nil, context.Cause(ctx)
		}
		switch {
		case err == nil:
			if w.expects(netaddr.PlainPort(netaddr.Of(peer.RemoteAddr()))) {
				w.sockets.Set(peer)
				return peer, nil
			}
			reset.Close(peer) // nothing is to be read here
		case errors.Is(err, syscall.ECONNABORTED):
			// The peer gave up before it was accepted.
		default:
			return nil, err
		}
	}
}

// expects reports whether a peer is the expected one and allowed.
func (w *wait) expects(peer netip.AddrPort) bool {
	outcome := metrics.BindAccepted
	if w.peers != nil && !slices.Contains(w.peers, peer.Addr()) {
		outcome = metrics.BindWrongPeer
	} else {
		dest := wire.FromAddrPort(peer)
		if w.peers != nil && w.request.Requested.IsName() {
			dest = wire.Addr{Name: w.request.Requested.Name, Port: peer.Port()}
		}
		w.judged = dest
		decision := w.request.Decide(dest, peer.Addr())
		w.rule = decision.Rule
		if !decision.Allow {
			outcome = metrics.BindDenied
		}
	}
	w.server.metrics.Bind.Peers.Of(outcome).Inc()
	return outcome == metrics.BindAccepted
}

// connected tells the client who is there.
func (w *wait) connected(peer *net.TCPConn, early []byte) Result {
	from := netaddr.PlainPort(netaddr.Of(peer.RemoteAddr()))
	r := Result{Peer: peer, PeerAddr: from, Judged: w.judged, Early: early, Bound: w.bound, Rule: w.rule, Reply: wire.ReplySucceeded}
	if err := w.request.Reply(wire.ReplySucceeded, from); err != nil {
		_ = peer.Close()
		r.Peer, r.Cause, r.Err = nil, cause.ClientClosed, err
	}
	return r
}

// failed tells the client, if it is still there, that nobody came.
func (w *wait) failed(err error) Result {
	r := Result{Bound: w.bound, Rule: w.rule, Reply: wire.ReplyGeneralFailure, Cause: cause.Drained, Err: err}
	switch {
	case errors.Is(err, errClient):
		r.Cause = cause.ClientClosed
	case errors.Is(err, errClientRST):
		r.Cause = cause.ClientReset
	case errors.Is(err, errTimeout):
		r.Cause, r.Reply = cause.Idle, wire.ReplyTTLExpired
		w.server.metrics.Bind.Peers.Of(metrics.BindTimeout).Inc()
	default:
		_, isListener := errors.AsType[*net.OpError](err)
		_, isPanic := errors.AsType[*task.PanicError](err)
		if isListener || isPanic {
			r.Cause = cause.Error
		}
	}
	if r.Cause == cause.ClientClosed || r.Cause == cause.ClientReset {
		w.server.metrics.Bind.Peers.Of(metrics.BindClientClosed).Inc()
		return r
	}
	if replyErr := w.request.Reply(r.Reply, netip.AddrPort{}); replyErr != nil {
		r.Err = errors.Join(r.Err, replyErr)
	}
	return r
}

// watch reads ahead of the second reply, to see the client go away. It ends
// without an error at an expired deadline, or when early is full: the rest
// stays in the kernel.
func watch(control Control) (early []byte, err error) {
	var buf [512]byte
	for len(early) < earlyBytes {
		n, err := control.Read(buf[:min(len(buf), earlyBytes-len(early))])
		early = append(early, buf[:n]...)
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return early, nil
		case errors.Is(err, syscall.ECONNRESET):
			return nil, errClientRST
		default:
			return nil, errClient
		}
	}
	return early, nil
}

// expected is who may connect; nil: anyone. A name that is asked for is made
// complete, for the rules to judge the one that answered.
func expected(ctx context.Context, request *Request, o *ServerOptions) ([]netip.Addr, error) {
	dest := request.Requested
	switch {
	case o.AnyPeer, dest.IsZero(), dest.IP.IsValid() && dest.IP.IsUnspecified():
		return nil, nil
	case dest.IP.IsValid():
		return []netip.Addr{dest.IP.Unmap()}, nil
	}
	if request.Complete != nil {
		var err error
		if dest, err = request.Complete(ctx, dest); err != nil {
			return nil, err
		}
		request.Requested = dest
	}
	found, err := request.Resolve(ctx, dest)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: %w", dest.Name, errNoPeers)
	}
	peers := make([]netip.Addr, len(found))
	for i, ip := range found {
		peers[i] = netaddr.Plain(ip)
	}
	return peers, nil
}

// facing is where the port belongs, for these peers or anyone.
func facing(request *Request, peers []netip.Addr) (at netip.Addr, setUp SetUp, err error) {
	here := localAddr(request.Control)
	if request.Facing == nil {
		return here, nil, nil
	}
	var peer netip.Addr
	switch ip := request.Requested.IP; {
	case len(peers) > 0:
		peer = peers[0]
		// Of a name's addresses rather one of the client's family: SOCKS4 has no other.
		if i := slices.IndexFunc(peers, func(p netip.Addr) bool { return p.Is4() == here.Is4() }); i >= 0 {
			peer = peers[i]
		}
	case ip.IsValid() && !ip.IsUnspecified():
		peer = ip.Unmap()
	}
	if at, setUp, err = request.Facing(peer, here); err == nil && !at.IsValid() {
		at = here
	}
	return at, setUp, err
}

// listen opens the port on an address of ours. Not
// MPTCP, Go's default: plain peers gain nothing from it, and sandbox rules
// for TCP do not see it.
func listen(ctx context.Context, local netip.Addr, setUp SetUp, o *ServerOptions) (*net.TCPListener, error) {
	network := "tcp6"
	if local.Is4() {
		network = "tcp4"
	}
	lc := net.ListenConfig{Control: func(network, address string, c syscall.RawConn) error {
		for _, set := range []SetUp{o.Control, setUp} {
			if set == nil {
				continue
			}
			if err := set(network, address, c); err != nil {
				return err
			}
		}
		return nil
	}}
	lc.SetMultipathTCP(false)
	var last error
	for port := range o.Ports.All() {
		l, err := lc.Listen(ctx, network, netip.AddrPortFrom(local, port).String())
		if err == nil {
			return l.(*net.TCPListener), nil
		}
		last = err
		if !errors.Is(err, syscall.EADDRINUSE) && !errors.Is(err, syscall.EACCES) {
			break
		}
	}
	return nil, last
}

// localAddr is the address that a client reached us at; loopback for a client
// on a unix socket.
func localAddr(control Control) netip.Addr {
	if tcp, ok := control.LocalAddr().(*net.TCPAddr); ok {
		if ip := tcp.AddrPort().Addr().Unmap(); ip.IsValid() && !ip.IsUnspecified() {
			return ip
		}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}
