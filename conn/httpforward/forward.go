// Package httpforward carries plain HTTP requests in absolute-form, the
// http_proxy use, from one client connection to wherever they go. The
// forwarding is the standard library's reverse proxy; in front of it stands a
// reader that lets no request through which two parsers could read apart.
//
//	end := forwarder.Serve(ctx, conn, r, head)
//	if end.Next != nil {
//		// the client went over to CONNECT: go on with r
//	}
//
// It adds no Via and no X-Forwarded-For, against RFC 9110 §7.6.3: who uses
// a proxy is not told to the servers behind it.
package httpforward

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
)

// Options is what a Forwarder needs. All but Realm and Drain are required.
type Options struct {
	// Decide judges one request before anything is opened for it.
	Decide func(ctx context.Context, r Request) Verdict
	// ReplyCode maps an error of a Verdict's Dial.
	ReplyCode func(err error) wire.ReplyCode
	Realm     string // of the 407
	// IdleTimeout ends a connection on which nothing moves, neither to the
	// client nor to a server.
	IdleTimeout time.Duration
	// Drain, once closed, ends connections after the response under way.
	Drain  <-chan struct{}
	Logger *slog.Logger
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
	// Close ends the connection with a 407.
	Close bool
	// Busy answers 503 instead, and ends the connection: nobody looked at the
	// credentials, and after a 407 a browser forgets them.
	Busy bool
	// Reply, if not ReplySucceeded, is answered as an HTTP status.
	Reply wire.ReplyCode
	// Dial opens a connection to the destination, which the forwarder
	// closes. It is not called when one that an earlier request with the
	// same Key opened is still there.
	Dial func(ctx context.Context, dest wire.Addr) (net.Conn, error)
	// Key names what a kept server connection may be used again for: the
	// identity and the route. Connections of one Key never serve another.
	Key string
	// Done, if set, is called once when the response has ended.
	Done func(Outcome)
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

// End says how a connection ended.
type End struct {
	// Next is a CONNECT that the client sent after its plain requests; the
	// reader stands behind its head.
	Next              *httpproxy.Head
	BytesIn, BytesOut int64 // from and to the client, Next's head excluded
	Requests          int
}

// Forwarder serves connections; it holds nothing of any of them.
type Forwarder struct {
	opts Options
}

// New is a Forwarder with the given options.
func New(opts Options) *Forwarder { return &Forwarder{opts: opts} }

// Serve serves one client connection, keep-alive included, until either side
// ends it, ctx ends, it idles, or a CONNECT comes. r reads conn and may hold
// bytes of it already; first is the head that was read from r. It neither
// closes conn nor leaves work behind: every server connection is closed.
func (f *Forwarder) Serve(ctx context.Context, conn net.Conn, r *bufio.Reader, first *httpproxy.Head) End {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client := newClientConn(conn, r, first)
	s := &session{over: ctx.Done(), opts: &f.opts, client: client, backends: make(map[*serverConn]struct{})}
	stop := context.AfterFunc(ctx, client.expire)
	s.idle = time.AfterFunc(f.opts.IdleTimeout, cancel)
	defer s.idle.Stop()
	client.touch = s.touch

	l := &listener{conn: client, gone: make(chan struct{})}
	srv := &http.Server{
		Handler:           s,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnState:         l.watch,
		IdleTimeout:       f.opts.IdleTimeout,
		ReadHeaderTimeout: f.opts.IdleTimeout,
		MaxHeaderBytes:    2 * httpproxy.MaxHead,
		ErrorLog:          slog.NewLogLogger(f.opts.Logger.Handler(), slog.LevelDebug),
	}
	srv.Protocols = new(http.Protocols)
	srv.Protocols.SetHTTP1(true)
	var wg sync.WaitGroup
	wg.Go(func() { f.drainOn(srv, l.gone) })
	_ = srv.Serve(l) // returns once the connection is gone
	s.handlers.Wait()
	wg.Wait()
	client.settle()
	if stop() {
		client.restore()
		// What the client did wrong after its last good request, it is told.
		if bad := client.bad; bad != nil {
			_, _ = client.Write(httpproxy.AppendError(nil, bad.Status, bad.Reason, false))
		}
	}
	cancel()
	s.closeBackends()
	return End{Next: client.next, BytesIn: client.in.Load(), BytesOut: client.out.Load(), Requests: s.requests}
}

// drainOn ends keep-alive when the drain begins.
func (f *Forwarder) drainOn(srv *http.Server, gone <-chan struct{}) {
	select {
	case <-f.opts.Drain:
		srv.SetKeepAlivesEnabled(false)
	case <-gone:
	}
}

// listener hands one connection to an http.Server and then waits for its end.
type listener struct {
	conn net.Conn
	once bool
	gone chan struct{}
}

// Accept is called by one goroutine, the server's.
func (l *listener) Accept() (net.Conn, error) {
	if !l.once {
		l.once = true
		return l.conn, nil
	}
	<-l.gone
	return nil, net.ErrClosed
}

func (l *listener) Close() error   { return nil }
func (l *listener) Addr() net.Addr { return l.conn.LocalAddr() }

// watch is told of the connection's end: the last that the server does with
// it, unless a handler took it over.
func (l *listener) watch(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateClosed, http.StateHijacked:
		close(l.gone)
	case http.StateNew, http.StateActive, http.StateIdle:
	}
}
