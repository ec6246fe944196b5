package httpforward

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
)

// session is one client connection's requests, one after the other.
type session struct {
	over     <-chan struct{} // Serve's end: bounds the dials, which outlive their requests
	opts     *Options
	client   *clientConn
	idle     *time.Timer
	handlers sync.WaitGroup
	requests int   // of the server's goroutine
	in, out  int64 // bytes from and to the client up to the last request's end

	transport *http.Transport // for requests of one key
	key       string

	dials    sync.WaitGroup
	mu       sync.Mutex
	closed   bool
	backends map[*serverConn]struct{}
}

func (s *session) touch() { s.idle.Reset(s.opts.IdleTimeout) }

// dialError marks an error as the dialer's.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// ServeHTTP judges one request and forwards it.
func (s *session) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.handlers.Add(1)
	defer s.handlers.Done()
	defer s.client.inFlight.Store(false)
	s.requests++
	req, err := asked(r)
	if err != nil {
		s.refuse(w, err)
		return
	}
	verdict := s.opts.Decide(r.Context(), req)
	rec := &recorder{ResponseWriter: w, raw: &s.client.raw}
	defer s.endBody(w, r)
	outcome, whole := Outcome{Reply: verdict.Reply}, false
	if verdict.Done != nil {
		// Deferred, because the reverse proxy panics to end a broken response.
		defer func() {
			if s.client.raw.Load() {
				rec.status = http.StatusSwitchingProtocols // written around w
			} else {
				_ = http.NewResponseController(w).Flush() // so that it is counted
			}
			if !whole && outcome.Err == nil {
				outcome.Err = cutShort(r)
			}
			outcome.Status = rec.status
			in, out := s.client.in.Load(), s.client.out.Load()
			outcome.BytesIn, outcome.BytesOut = in-s.in, out-s.out
			s.in, s.out = in, out
			verdict.Done(outcome)
		}()
	}
	switch {
	case verdict.Busy:
		rec.Header().Set("Connection", "close")
		answer(rec, http.StatusServiceUnavailable, "Too many log in at this time.")
	case verdict.AskLogin:
		rec.Header().Set("Proxy-Authenticate", httpproxy.Challenge(s.opts.Realm))
		if verdict.Close {
			rec.Header().Set("Connection", "close")
		}
		answer(rec, http.StatusProxyAuthRequired, "This proxy needs a user and a password.")
	case verdict.Reply != wire.ReplySucceeded:
		answer(rec, httpproxy.Status(verdict.Reply), httpproxy.Reason(verdict.Reply))
	default:
		s.forward(rec, r, req.Dest, verdict, &outcome)
	}
	whole = true
}

// asked is a request as Decide judges it.
func asked(r *http.Request) (req Request, err error) {
	req.Method = r.Method
	head := httpproxy.Head{Method: r.Method, Target: r.RequestURI}
	if req.Request, err = head.Request(); err != nil {
		return req, err
	}
	if value := r.Header.Get("Proxy-Authorization"); value != "" {
		c, ok, err := httpproxy.ParseBasic(value)
		if err != nil {
			return req, err
		}
		if ok {
			req.Credentials = &c
		}
	}
	return req, nil
}

// cutShort is why a response ended before its end: the client's context ends
// when it cannot be written to.
func cutShort(r *http.Request) error {
	if err := r.Context().Err(); err != nil {
		return err
	}
	return ErrCutShort
}

// endBody reads what is left of a request's body, up to the server's bound,
// once the response is out. With full duplex nobody else does before the
// server reads the next request, and then it meets its own read ahead and
// panics ("invalid concurrent Body.Read call").
func (s *session) endBody(w http.ResponseWriter, r *http.Request) {
	if s.client.raw.Load() {
		return
	}
	_ = http.NewResponseController(w).Flush() // fails on a client that is gone
	_ = r.Body.Close()
}

// forward sends the request on and its response back.
func (s *session) forward(w http.ResponseWriter, r *http.Request, dest wire.Addr, v Verdict, outcome *Outcome) {
	if s.transport == nil || s.key != v.Key {
		s.newTransport(v)
	}
	proxy := httputil.ReverseProxy{
		Transport:     s.transport,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(s.opts.Logger.Handler(), slog.LevelDebug),
		Rewrite: func(pr *httputil.ProxyRequest) {
			// The reverse proxy drops what a gateway would: a forward proxy
			// has no say in a query or in the client's own fields.
			pr.Out.URL.RawQuery = pr.In.URL.RawQuery
			for _, name := range [...]string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if values := pr.In.Header.Values(name); len(values) > 0 && !forThisHop(pr.In.Header, name) {
					pr.Out.Header[name] = values
				}
			}
			pr.Out.Host = pr.In.URL.Host
			pr.Out.URL.Host = dest.Authority() // one form for one server
			pr.Out.URL.Scheme = "http"
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			outcome.Err = err
			outcome.Reply = s.failed(w, err)
		},
	}
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		GotConn: func(got httptrace.GotConnInfo) {
			if b, ok := got.Conn.(*serverConn); ok {
				outcome.Server = b.Conn
			}
		},
	}))
	// A response may begin before its request has ended.
	_ = http.NewResponseController(w).EnableFullDuplex()
	// What the server does not say is not to be made up here.
	w.Header()["Content-Type"] = nil
	w.Header()["Date"] = nil
	proxy.ServeHTTP(w, r)
}

// forThisHop reports whether a client named a field in Connection: it is for
// the proxy alone then (RFC 9110 §7.6.1).
func forThisHop(h http.Header, name string) bool {
	for _, value := range h.Values("Connection") {
		for option := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(option), name) {
				return true
			}
		}
	}
	return false
}

// failed answers a request that could not be forwarded.
func (s *session) failed(w http.ResponseWriter, err error) wire.ReplyCode {
	code := wire.ReplyGeneralFailure
	de, dialled := errors.AsType[*dialError](err)
	ne, isNet := errors.AsType[net.Error](err)
	switch {
	case s.client.badBody.Load():
		w.Header().Set("Connection", "close")
		answer(w, http.StatusBadRequest, "The request's body is malformed.")
		return code
	case dialled:
		code = s.opts.ReplyCode(de.err)
	case isNet && ne.Timeout(), errors.Is(err, context.DeadlineExceeded):
		code = wire.ReplyTTLExpired
	}
	reason := httpproxy.Reason(code)
	if !dialled && code == wire.ReplyGeneralFailure {
		reason = "The destination's answer was cut short or malformed."
	}
	answer(w, httpproxy.Status(code), reason)
	return code
}

// newTransport starts over without the connections of another key.
func (s *session) newTransport(v Verdict) {
	if s.transport != nil {
		s.transport.CloseIdleConnections()
	}
	s.key = v.Key
	s.transport = &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return s.dial(ctx, v.Dial, address)
		},
		DisableCompression:     true,
		MaxIdleConns:           4,
		IdleConnTimeout:        30 * time.Second,
		ResponseHeaderTimeout:  s.opts.IdleTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

func (s *session) dial(ctx context.Context, dial func(context.Context, wire.Addr) (net.Conn, error), address string) (net.Conn, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, &dialError{net.ErrClosed}
	}
	s.dials.Add(1)
	s.mu.Unlock()
	defer s.dials.Done()
	ctx, cancel := context.WithCancel(ctx)
	s.dials.Go(func() {
		select {
		case <-s.over:
			cancel()
		case <-ctx.Done():
		}
	})
	defer cancel()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, &dialError{err}
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, &dialError{err}
	}
	dest, err := wire.ParseHost(host, uint16(number))
	if err != nil {
		return nil, &dialError{err}
	}
	conn, err := dial(ctx, dest)
	if err != nil {
		return nil, &dialError{fmt.Errorf("dial %s: %w", dest, err)}
	}
	return s.track(conn)
}

// track takes charge of a server's connection: the transport may still be
// opening one when the client is gone.
func (s *session) track(conn net.Conn) (net.Conn, error) {
	b := &serverConn{Conn: conn, s: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = conn.Close()
		return nil, &dialError{net.ErrClosed}
	}
	s.backends[b] = struct{}{}
	return b, nil
}

func (s *session) closeBackends() {
	s.mu.Lock()
	s.closed = true
	open := s.backends
	s.backends = nil
	s.mu.Unlock()
	for b := range open {
		_ = b.Conn.Close()
	}
	s.dials.Wait()
}

// serverConn keeps the client's connection from idling while it moves.
type serverConn struct {
	net.Conn
	s *session
}

func (b *serverConn) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	if n > 0 {
		b.s.touch()
	}
	return n, err
}

func (b *serverConn) Write(p []byte) (int, error) {
	n, err := b.Conn.Write(p)
	if n > 0 {
		b.s.touch()
	}
	return n, err
}

// Close closes the connection and forgets it.
func (b *serverConn) Close() error {
	b.s.mu.Lock()
	delete(b.s.backends, b)
	b.s.mu.Unlock()
	return b.Conn.Close()
}

// refuse answers a request that should not have come this far.
func (s *session) refuse(w http.ResponseWriter, err error) {
	if se, ok := errors.AsType[*httpproxy.StatusError](err); ok {
		answer(w, se.Status, se.Reason)
		return
	}
	answer(w, http.StatusBadRequest, "The request is malformed.")
}

// answer is a response of the proxy's own.
func answer(w http.ResponseWriter, status int, reason string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(reason)+1))
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(reason + "\n"))
}

// recorder remembers the status.
type recorder struct {
	http.ResponseWriter
	status int
	raw    *atomic.Bool
}

// Unwrap lets the reverse proxy flush.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Hijack is how the reverse proxy takes the connection over after a 101: from
// here on, and not from the server's mere word, bytes pass as they are.
func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(r.ResponseWriter).Hijack()
	if err == nil {
		r.raw.Store(true)
	}
	return conn, rw, err
}

// WriteHeader notes a final status.
func (r *recorder) WriteHeader(status int) {
	if status >= http.StatusOK {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}
