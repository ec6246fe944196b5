package conn

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"cleversocks/authsvc"
	"cleversocks/conn/httpforward"
	"cleversocks/conn/relay"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
	"cleversocks/metrics"
)

// forwardIdle ends a connection of plain requests when relays have no idle
// time-out.
const forwardIdle = 15 * time.Minute

// forwarding is one connection's plain HTTP requests. Each is judged, dialed,
// counted and recorded by itself; what they share is the client.
type forwarding struct {
	h     *Handler
	hs    *handshake
	known bool // the next request's client is the one of the handshake
}

// forward serves plain requests until the connection ends, or the client goes
// over to CONNECT: then it reports whether there is a tunnel.
func (h *Handler) forward(hs *handshake) bool {
	s := hs.session
	hs.release() // the forwarder ends with the context by itself, and may answer first
	f := &forwarding{h: h, hs: hs, known: true}
	end := httpforward.New(httpforward.Options{
		Decide: f.decide, ReplyCode: replyCode, Realm: httpRealm,
		IdleTimeout: cmp.Or(s.policy.Relay.Idle, forwardIdle), Drain: h.draining, Logger: h.log,
	}).Serve(s.ctx, s.conn, hs.in, hs.head)
	hs.head = nil
	// Every request has its record.
	s.cause = ""
	if end.Next == nil || s.ctx.Err() != nil {
		return false
	}
	return h.connectAfter(hs, end.Next)
}

// connectAfter serves the CONNECT that a client sent behind plain requests.
// What is recorded from here on is the tunnel.
func (h *Handler) connectAfter(hs *handshake, head *httpproxy.Head) bool {
	s := hs.session
	s.started, s.policy = time.Now(), h.policy.Load()
	defer context.AfterFunc(s.ctx, func() { s.socket.Close() })()
	codec := httpCodec{h}
	if err := codec.take(hs, head); err != nil {
		return h.handshakeFailed(hs, errors.Join(err, codec.write(hs, codec.refusal(hs, err))))
	}
	if err := s.socket.SetDeadline(time.Time{}); err != nil {
		return h.fail(s, "handshake", err)
	}
	return h.serve(hs)
}

// decide judges one request.
func (f *forwarding) decide(ctx context.Context, r httpforward.Request) (v httpforward.Verdict) {
	one := f.hs.fork()
	one.request, one.policy = r.Request, f.h.policy.Load()
	v.Done = func(o httpforward.Outcome) { f.ended(one, o) }
	defer func() {
		// The HTTP server would recover as well, yet nobody would give back what
		// was taken of the user, nor hear of it.
		if p := recover(); p != nil {
			f.h.panicked(one, "conn", p)
			v.Reply = wire.ReplyGeneralFailure
		}
	}()
	if err := f.login(one, r.Credentials); err != nil { //nolint:contextcheck // the session's bounds it, as in the handshake
		one.err, one.cause = err, metrics.CauseDenied
		v.AskLogin, v.Close, v.Busy = true, !errors.Is(err, errLogin), errors.Is(err, authsvc.ErrBusy)
		return v
	}
	err := f.h.enterUser(one)
	if err == nil {
		err = f.h.judgeName(one)
	}
	if err != nil {
		one.err, v.Reply = err, replyCode(err)
		return v
	}
	// A connection is used again by its user alone, and not past a reload.
	v.Key = strconv.FormatUint(one.policy.Generation, 36) + " " + one.identity.User
	v.Dial = func(ctx context.Context, dest wire.Addr) (net.Conn, error) { return f.dial(ctx, one, dest) }
	return v
}

// login sets a request's identity. The first one's was checked with the
// handshake.
func (f *forwarding) login(one *session, given *httpproxy.Credentials) error {
	if f.known {
		f.known = false
		return nil
	}
	return f.h.httpLogin(&handshake{session: one, in: f.hs.in}, given)
}

// dial opens a connection for a request and for those after it that may use
// it again.
func (f *forwarding) dial(ctx context.Context, one *session, dest wire.Addr) (net.Conn, error) {
	to := one.fork() // a dial may outlive its request
	to.identity, to.policy = one.identity, one.policy
	to.request = wire.Request{Protocol: wire.HTTP, Command: wire.CommandConnect, Dest: dest}
	if err := f.h.reachSafely(ctx, to); err != nil {
		return nil, err
	}
	c := &forwardConn{Conn: to.server, h: f.h, route: to, meter: one.charge.meter(), closed: make(chan struct{})}
	c.judged.Store(to.policy)
	f.h.forwards.add(c)
	c.judge() // a reload may have passed meanwhile
	return c, nil
}

// reachSafely is reach in a goroutine of the standard library's, where nobody
// recovers: a panic there would end the daemon.
func (h *Handler) reachSafely(ctx context.Context, s *session) (err error) {
	defer func() {
		if p := recover(); p != nil {
			h.panicked(s, "conn", p)
			err = s.err
		}
	}()
	return h.reach(ctx, s)
}

// ended counts and records a request.
func (f *forwarding) ended(one *session, o httpforward.Outcome) {
	if server, ok := o.Server.(*forwardConn); ok {
		one.hostIP, one.local = server.route.hostIP, server.route.local
		one.rule, one.upstream = server.route.rule, server.route.upstream
		if end := server.end.Load(); end != nil {
			one.err = end
		}
	}
	one.counters.In.Store(o.BytesIn)
	one.counters.Out.Store(o.BytesOut)
	// A client that left during the dial was told of nothing.
	left := o.Server == nil && errors.Is(o.Err, context.Canceled)
	one.code, one.replied = o.Reply, o.Status != 0 && !left
	if one.err == nil {
		one.err = o.Err
	}
	if one.cause == "" {
		one.cause = f.h.refused(one, one.err)
	}
	if one.cause == "" {
		if one.cause = one.forwardCause(o); one.cause == metrics.CauseQuota {
			f.h.metrics.Auth.QuotaExceeded.Inc()
		}
	}
	if o.Status == http.StatusProxyAuthRequired && errors.Is(one.err, errLogin) || errors.Is(one.err, errCredentials) {
		one.code = wire.ReplyNotAllowed
	}
	f.h.metrics.Conn.Requests.Of(one.request.Command.String(), one.code.String()).Inc()
	one.charge.release()
	f.h.access.Log(one.record())
}

// forwardCause is why a request ended: a whole answer is its server's doing.
func (s *session) forwardCause(o httpforward.Outcome) string {
	ended, isEnded := errors.AsType[*relay.EndError](s.err)
	switch {
	case isEnded:
		return ended.Cause
	case s.ctx.Err() != nil:
		return endCause(s.ctx)
	case errors.Is(s.err, context.Canceled), o.Status == 0:
		return metrics.CauseClientClosed
	case o.Server == nil && o.Reply != wire.ReplySucceeded:
		return metrics.CauseDialFailed
	case s.err != nil:
		return metrics.CauseError
	}
	return metrics.CauseServerClosed
}

// fork is a session of its own for one request of s's connection.
func (s *session) fork() *session {
	return &session{
		id: s.id, socket: s.socket, conn: s.conn, vouched: s.vouched, notes: s.notes, listener: s.listener, client: s.client, started: time.Now(),
		ctx: s.ctx, cancel: s.cancel, policy: s.policy, protocol: s.protocol, identity: s.identity,
	}
}
