package conn

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"cleversocks/authsvc"
	"cleversocks/conn/cause"
	"cleversocks/conn/handshake"
	"cleversocks/conn/httpforward"
	"cleversocks/conn/netaddr"
	"cleversocks/conn/relay"
	"cleversocks/conn/task"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
	"cleversocks/metrics"
)

// forwardIdle ends a connection of plain requests when relays have no idle
// time-out.
const forwardIdle = 15 * time.Minute

// forwarder serves plain HTTP requests.
type forwarder struct {
	login     *login
	judge     *judge
	accounts  *accounts
	connector *connector
	replies   *replies
	watch     *clientWatch
	dialed    *dialedEnds
	access    *AccessLog
	metrics   *metrics.Registry
	panics    *task.Reporter
	draining  context.Context   //nolint:containedctx // an event, not a scope
	hurrying  context.Context   //nolint:containedctx // likewise
	heads     *httpproxy.Budget // bounds the memory of large heads
	servers   forwardConns      // that are open, which no session holds
}

// forwarding is one connection's plain HTTP requests. Each is judged, dialed,
// counted and recorded by itself; what they share is the client, and the one
// connection that it counts for its user.
type forwarding struct {
	*forwarder
	d     *driver
	known bool     // says that the handshake has identified the next request's client
	place charge   // is what the client's connection takes of its user, as long as it lasts
	whose string   // is that user's name
	last  *session // is the last request that was judged
}

// serve serves plain requests until the connection ends, or goes over to
// something else: to a tunnel, or to the CONNECT that came next.
func (r *forwarder) serve(d *driver) (tunnel bool, next *httpproxy.Head) {
	s := d.session
	d.release() // the forwarder ends with the context by itself, and may answer first
	f := &forwarding{forwarder: r, d: d, known: true}
	defer func() { f.place.release(f.d.client.Addr()) }() // of the user at the end
	terms, _ := s.terms(nil)
	leaves, release := s.untilOld(r.draining)
	hurry, calm := idleUntil(r.draining, r.hurrying, leaves)
	end := httpforward.New(httpforward.Options{
		Decide: f.decide, Refusal: f.refusal, Challenges: terms.Challenges(),
		Watch:       func() func() { return r.watch.client(s, true) },
		IdleTimeout: cmp.Or(s.policy.Relay.Idle, forwardIdle), HeadTimeout: s.policy.Timeouts.Handshake,
		Drain: leaves, Hurry: hurry, Heads: r.heads, Panics: r.panics,
	}).Serve(s.ctx, s.conn, d.reader(), d.machine.Head())
	calm()
	release() // what follows may be a tunnel
	// Every request has its record.
	s.cause = ""
	switch {
	case end.Upgrade != nil:
		return f.upgraded(end.Upgrade), nil
	case s.ctx.Err() != nil:
		return false, nil
	case end.Next != nil:
		return false, end.Next
	case end.Broken:
		relay.Reset(s.ctx, s.conn)
	}
	return false, nil
}

// upgraded makes the last request the session's own: its server switched
// protocols, and what follows is a tunnel like any other.
func (f *forwarding) upgraded(up *httpforward.Upgrade) bool {
	s, one := f.d.session, f.last
	to, ok := up.Server.(*forwardConn)
	if !ok {
		return s.fail("upgrade", errors.New("a server of nobody's"))
	}
	f.servers.remove(to)
	f.dialed.remove(netaddr.Of(to.LocalAddr()), dialedConn{to.Conn})
	s.started, s.policy, s.identity, s.request, s.method = one.started, one.policy, one.identity, one.request, one.method
	s.server, s.dest, s.hop = to.Conn, to.route.dest, to.route.hop
	s.hostIP, s.local, s.rule = to.route.hostIP, to.route.local, to.route.rule
	f.dialed.addServer(s)
	s.charge, f.place = f.place, charge{} // the tunnel's end gives it back
	s.counters.In.Store(up.Outcome.BytesIn)
	s.counters.Out.Store(up.Outcome.BytesOut)
	s.replied = true
	f.metrics.Conn.Requests.Of(s.request.Command.String(), wire.ReplySucceeded.String()).Inc()
	if err := s.server.SetDeadline(time.Time{}); err != nil {
		return s.fail("upgrade", err)
	}
	// It was counted and paid for when it was read.
	if _, err := s.conn.Write(up.Ahead); err != nil {
		return s.clientLost(err)
	}
	s.counters.Out.Add(int64(len(up.Ahead)))
	return f.d.passAhead(nil)
}

// decide judges one request.
func (f *forwarding) decide(ctx context.Context, r httpforward.Request) (v httpforward.Verdict) {
	one := f.d.fork()
	one.request, one.method, one.policy = r.Request, r.Method, f.judge.current.Load()
	f.last = one
	v.Done = func(o httpforward.Outcome) { f.ended(one, o) }
	defer func() {
		// Who contains it further up knows neither the request nor its client.
		if p := recover(); p != nil {
			one.panicked(f.panics, "conn", p)
			v.Reply, v.Refusal = f.refusal(one.err)
		}
	}()
	answer, err := f.identify(one, r.Credentials)
	v.Fields = httpproxy.NegotiateField(answer)
	if err != nil {
		o := outcomeOf(inHandshake, err)
		one.err, one.cause = err, o.cause
		if o.status == http.StatusServiceUnavailable {
			// Nobody looked at the password, which a browser would forget after a 407.
			v.Reply, v.Refusal = o.reply, one.httpRefusal(o)
			return v
		}
		v.AskLogin, v.Close = true, !errors.Is(err, handshake.ErrLogin)
		return v
	}
	if err = f.dialed.refuse(one); err == nil {
		err = f.enter(one)
	}
	if err == nil {
		err = f.judge.name(one)
	}
	if err != nil {
		one.err = err
		v.Reply, v.Refusal = f.refusal(err)
		v.Refusal.Keep = true
		return v
	}
	// A connection is used again by its user alone, and not past a reload.
	v.Key = strconv.FormatUint(one.policy.Generation, 36) + " " + one.identity.User + "\x00" + one.identity.Session(time.Now())
	v.Dial = func(ctx context.Context, dest wire.Addr) (httpforward.Server, error) { return f.dial(ctx, one, dest) }
	return v
}

// refusal is what the client is told of an error of its last request.
func (f *forwarding) refusal(err error) (wire.ReplyCode, httpproxy.Refusal) {
	o := outcomeOf(inRequest, err)
	return o.reply, f.last.httpRefusal(o)
}

// identify sets a request's identity. The first one's was checked with the
// handshake. A ticket is for the connection, not for one request (RFC 4559 §5):
// its later requests bring none. answer is ours to the client's.
func (f *forwarding) identify(one *session, given *httpproxy.Credentials) (answer []byte, err error) {
	if f.known {
		f.known = false
		return f.d.machine.Answer(), nil
	}
	if known := f.d.identity; given == nil && known.Method == authsvc.MethodGSSAPI {
		one.identity, err = one.policy.Auth.Holds(known, one.client.Addr())
		if err == nil {
			return nil, nil
		}
	}
	if answer, err = f.login.overHTTP(one, given); err == nil && given != nil && given.Token != nil {
		f.d.identity = one.identity
	}
	return answer, err
}

// enter takes a connection of the request's user, unless this one is taken
// already: it counts from its first request to its end, idle or not.
func (f *forwarding) enter(one *session) error {
	if err := f.judge.lapsed(one); err != nil {
		return err
	}
	account := one.identity.Account
	if account == nil || f.place.user == nil || f.whose != account.Name {
		f.leave()
		if err := f.accounts.enter(one); err != nil {
			return err
		}
		if f.place = one.charge; account != nil {
			f.whose = account.Name
		}
		return nil
	}
	f.place.usage = f.accounts.guards.Quotas.Of(account) // a reload may have changed it
	if !f.place.usage.Moved(0) {
		return errQuota
	}
	one.charge = f.place
	return nil
}

// leave gives the user's connection back.
func (f *forwarding) leave() {
	f.place.release(f.d.client.Addr())
	f.place = charge{}
}

// dial opens a connection for a request and for those after it that may use
// it again.
func (f *forwarding) dial(ctx context.Context, one *session, dest wire.Addr) (httpforward.Server, error) {
	to := one.fork() // the connection may outlive its request
	to.identity, to.policy, to.method = one.identity, one.policy, one.method
	to.request = wire.Request{Protocol: wire.HTTP, Command: wire.CommandConnect, Dest: dest}
	if err := f.connector.reachSafely(ctx, to); err != nil {
		return httpforward.Server{}, err
	}
	c := &forwardConn{Conn: to.server, of: f.forwarder, route: to, meter: one.charge.meter(), closed: make(chan struct{})}
	c.judged.Store(to.policy)
	f.dialed.add(netaddr.Of(to.server.LocalAddr()), dialedConn{to.server})
	f.servers.add(c)
	c.judge() // a reload may have passed meanwhile
	server := httpforward.Server{Conn: c}
	if parent := to.via().parent; parent != nil {
		server.Again = true // it may have waited for somebody to need it
		server.Parent = &httpforward.Parent{Authorization: parent.Authorization, Refused: parent.Refused}
		if reached := to.reached(); reached != dest {
			server.Parent.Authority = reached.String()
		}
	}
	return server, nil
}

// ended counts and records a request.
func (f *forwarding) ended(one *session, o httpforward.Outcome) {
	if server, ok := o.Server.(*forwardConn); ok {
		one.hostIP, one.local = server.route.hostIP, server.route.local
		one.rule, one.hop = server.route.rule, server.route.hop
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
		end := one.forwardOutcome(o)
		one.cause = end.cause
		f.replies.refused(one, end)
		if one.cause == cause.Quota && end.refusal == "" {
			f.metrics.Auth.QuotaExceeded.Inc()
		}
	}
	if o.Status == http.StatusProxyAuthRequired && errors.Is(one.err, handshake.ErrLogin) || errors.Is(one.err, handshake.ErrCredentials) {
		one.code = wire.ReplyNotAllowed
	}
	f.metrics.Conn.Requests.Of(one.request.Command.String(), one.code.String()).Inc()
	f.access.Log(one.record())
}

// forwardOutcome is how a request ended: a whole answer is its server's doing.
func (s *session) forwardOutcome(o httpforward.Outcome) outcome {
	in, err := inTunnel, s.err
	if o.Server == nil && o.Reply != wire.ReplySucceeded {
		in = inRequest
	}
	left := o.Status == 0 || errors.Is(err, context.Canceled)
	if left && !kind[*relay.EndError](err) && outcomeOf(in, err).refusal == "" {
		err = errClientGone
	}
	return s.outcome(in, err)
}

// fork is a session of its own for one request of s's connection.
func (s *session) fork() *session {
	return &session{
		id: s.id, socket: s.socket, conn: s.conn, entry: s.entry, listener: s.listener, client: s.client, started: time.Now(),
		ctx: s.ctx, policy: s.policy, protocol: s.protocol, identity: s.identity,
	}
}
