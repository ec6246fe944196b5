// Package httpforward carries plain HTTP requests in absolute-form, the
// http_proxy use, from one client connection to wherever they go. It speaks
// HTTP/1.1 by itself: heads pass as bytes with what concerns one connection
// taken out, bodies by their framing. No request passes that two parsers could
// read apart; servers are read as leniently as other proxies do.
//
//	end := forwarder.Serve(ctx, conn, r, head)
//	switch {
//	case end.Upgrade != nil: // join conn and end.Upgrade.Server
//	case end.Next != nil: // the client went over to CONNECT: go on with r
//	}
//
// It adds no Via and no X-Forwarded-For, against RFC 9110 §7.6.3: who uses
// a proxy is not told to the servers behind it.
package httpforward

import (
	"bufio"
	"context"
	"errors"
	"net"
	"time"

	"cleversocks/conn/task"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
)

// Options is what a Forwarder needs. Decide, Refusal and IdleTimeout are
// required.
type Options struct {
	// Decide judges one request before anything is opened for it.
	Decide func(ctx context.Context, r Request) Verdict
	// Refusal is what the client is told of an error of a Verdict's Dial.
	Refusal func(err error) (wire.ReplyCode, httpproxy.Refusal)
	// Watch looks after the client while nobody reads from it, until stop: it
	// ends Serve's context when the client is gone. One that has half-closed is
	// not. nil: nobody does.
	Watch      func() (stop func())
	Challenges httpproxy.Challenges // of the 407
	// IdleTimeout ends a connection on which nothing moves, neither to the
	// client nor to a server.
	IdleTimeout time.Duration
	// HeadTimeout bounds a request's head from its first byte on; 0: the same.
	HeadTimeout time.Duration
	// Drain, once it ends, has the next response be the connection's last, which
	// says so; nil: never.
	Drain context.Context //nolint:containedctx // an event, not a scope
	// Hurry, once it ends, ends connections that wait for a request, which may be
	// on its way; nil: Drain does.
	Hurry context.Context //nolint:containedctx // likewise
	// Heads bounds the memory of large heads; nil: unbounded.
	Heads *httpproxy.Budget
	// Panics hears of those of this package's goroutines.
	Panics *task.Reporter
}

// Request is what Decide judges.
type Request struct {
	wire.Request
	Method string
	// Credentials are nil when the client sent none.
	Credentials *httpproxy.Credentials
}

// Verdict is what becomes of a request.
type Verdict struct {
	// AskLogin answers 407, whatever Reply says.
	AskLogin bool
	// Fields go with the server's answer, each with its line's end.
	Fields string
	// Close ends the connection with a 407.
	Close bool
	// Reply, if not ReplySucceeded, is answered as Refusal says.
	Reply   wire.ReplyCode
	Refusal httpproxy.Refusal
	// Dial opens a connection to the destination, which the forwarder
	// closes. It is not called when one that an earlier request with the
	// same Key opened is still there.
	Dial func(ctx context.Context, dest wire.Addr) (Server, error)
	// Key names what a kept server connection may be used again for: the
	// identity and the route. Connections of one Key never serve another.
	Key string
	// Done, if set, is called once when the response has ended, unless it was
	// an upgrade: its end is End.Upgrade's.
	Done func(Outcome)
}

// Server is a connection to a request's destination, or to a proxy that is
// asked for it.
type Server struct {
	net.Conn
	Parent *Parent // nil: it is the destination's
	// Again says that the connection may have gone stale before its use.
	Again bool
}

// Parent is an HTTP proxy that gets requests in absolute-form.
type Parent struct {
	// Authority is asked for instead of the client's host; "": that one.
	Authority string
	// Authorization is the value of Proxy-Authorization; "": none.
	Authorization string
	// Refused is told of a proxy that refuses us, not the request, and is the
	// error of it.
	Refused func(status int) error
}

// Outcome says how one request ended.
type Outcome struct {
	Status            int   // as answered; 0 if the connection broke before
	BytesIn, BytesOut int64 // from and to the client since the last request's end, heads included
	Reply             wire.ReplyCode
	// Server is what Dial returned for this request, or for an earlier one
	// whose connection was used again; nil: there was none. It may be closed.
	Server net.Conn
	// Err is that of the dial or the transfer: ErrCutShort when the response
	// ended before its end, context.Canceled when the client left.
	Err error
}

// ErrCutShort is a response that ended before its end.
var ErrCutShort = errors.New("the response was cut short")

// errIdle ends a connection on which nothing moves.
var errIdle = errors.New("nothing moved for too long")

// End says how a connection ended.
type End struct {
	// Next is a CONNECT that the client sent after its plain requests; the
	// reader stands behind its head.
	Next *httpproxy.Head
	// Upgrade is the last request's, when its server switched protocols: from
	// here on bytes pass as they are, those that the reader holds first.
	Upgrade *Upgrade
	// Broken says that the last answer was cut short where only a reset shows
	// it.
	Broken            bool
	BytesIn, BytesOut int64 // from and to the client, Next's head excluded
	Requests          int
}

// Upgrade is a connection that speaks something else than HTTP now. Its server
// is the caller's to close.
type Upgrade struct {
	Server  net.Conn
	Ahead   []byte // what the server sent behind its answer, for the client
	Outcome Outcome
}

// Forwarder serves connections; it holds nothing of any of them.
type Forwarder struct {
	opts Options
}

// New is a Forwarder with the given options.
func New(opts Options) *Forwarder {
	if opts.HeadTimeout <= 0 {
		opts.HeadTimeout = opts.IdleTimeout
	}
	if opts.Watch == nil {
		opts.Watch = func() func() { return func() {} }
	}
	if opts.Drain == nil {
		opts.Drain = context.Background()
	}
	if opts.Hurry == nil {
		opts.Hurry = opts.Drain
	}
	return &Forwarder{opts: opts}
}

// Serve serves one client connection, keep-alive included, until either side
// ends it, ctx ends, it idles, or a CONNECT or an upgrade comes. r reads conn
// and may hold bytes of it already; first is the head that was read from r. It
// neither closes conn nor leaves work behind: every server connection is
// closed but that of an upgrade.
func (f *Forwarder) Serve(ctx context.Context, conn net.Conn, r *bufio.Reader, first *httpproxy.Head) End {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &session{opts: &f.opts, heads: httpproxy.HeadReader{Budget: f.opts.Heads}}
	s.idle = newIdleTimer(f.opts.IdleTimeout, func() { cancel(errIdle) })
	defer s.idle.stop()
	s.client = &client{conn: conn, r: r, moved: s.idle.touch}
	stop := context.AfterFunc(ctx, func() { s.client.expire(context.Cause(ctx)) })
	defer s.kept.closeAll()
	defer s.heads.Release()
	for head := first; head != nil && !head.IsConnect(); head = s.next(ctx) {
		if !s.serve(ctx, head) {
			break
		}
	}
	if stop() {
		s.client.restore() // for what comes after
	} else {
		s.client.expire(context.Cause(ctx)) // nobody waits for the callback
	}
	return End{
		Next: s.connect, Upgrade: s.upgrade, Broken: s.broken, Requests: s.requests,
		BytesIn: s.client.in.Load(), BytesOut: s.client.out.Load(),
	}
}

// session is one client connection's requests, one after the other.
type session struct {
	opts     *Options
	client   *client
	idle     *idleTimer
	heads    httpproxy.HeadReader
	kept     kept
	requests int
	in, out  int64           // bytes from and to the client up to the last request's end
	connect  *httpproxy.Head // what ended it
	upgrade  *Upgrade
	broken   bool
}

func (s *session) draining() bool { return s.opts.Drain.Err() != nil }

func (s *session) hurries() bool { return s.opts.Hurry.Err() != nil }

// next reads the head of the next request; nil: there is none to be served
// here.
func (s *session) next(ctx context.Context) *httpproxy.Head {
	if !s.awaitByte(ctx) {
		return nil
	}
	s.client.readBy(time.Now().Add(s.opts.HeadTimeout))
	head, err := s.heads.Read(s.client.r)
	s.client.readBy(time.Time{})
	if bad, ok := errors.AsType[*httpproxy.StatusError](err); ok {
		// What the client did wrong after its last good request, it is told.
		_, _ = s.client.write(httpproxy.AppendError(nil, bad.Status, bad.Reason, false))
	}
	if err != nil {
		return nil
	}
	if head.IsConnect() {
		head.Release()
		s.connect = head
		return nil
	}
	return head
}

// awaitByte waits for the next request to begin. Server connections that
// nobody has used for a while are closed meanwhile.
func (s *session) awaitByte(ctx context.Context) bool {
	if s.client.r.Buffered() > 0 {
		return !s.hurries()
	}
	awake := context.AfterFunc(s.opts.Hurry, s.client.interruptRead) //nolint:contextcheck // an event of the daemon's
	for {
		var until time.Time
		if s.kept.any() {
			until = time.Now().Add(keptIdle)
		}
		s.client.readBy(until)
		if s.hurries() {
			return false
		}
		_, err := s.client.r.Peek(1)
		switch {
		case err == nil:
			s.idle.touch()
			return awake()
		case isTimeout(err) && ctx.Err() == nil && !s.hurries():
			s.kept.closeAll()
		default:
			awake()
			return false
		}
	}
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}
