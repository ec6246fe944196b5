package httpforward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
)

// exchange is one request and its answer.
type exchange struct {
	*session
	head    *httpproxy.Head
	to      httpproxy.Absolute
	body    *httpproxy.Body // the request's
	verdict Verdict
	outcome Outcome
	unwatch func() // ends the look after the client; nil: nobody looks
}

// serve judges one request and forwards it. It reports whether the client's
// connection goes on.
func (s *session) serve(ctx context.Context, head *httpproxy.Head) (goesOn bool) {
	defer head.Release()
	s.requests++
	s.client.took(head.Size)
	x := &exchange{session: s, head: head, body: head.Body(s.client.r)}
	var request Request
	var err error
	if x.to, err = head.Absolute(); err == nil {
		request, err = x.request()
	}
	if bad, ok := errors.AsType[*httpproxy.StatusError](err); ok {
		return x.refuse(httpproxy.Refusal{Status: bad.Status, Reason: bad.Reason})
	}
	x.verdict = s.opts.Decide(ctx, request)
	x.outcome.Reply = x.verdict.Reply
	ended := false
	defer func() {
		if !ended { // a panic, which is the caller's to contain
			x.outcome.Err = ErrCutShort
		}
		x.done()
	}()
	goesOn = x.carryOut(ctx)
	ended = true
	return goesOn
}

// request is what Decide judges.
func (x *exchange) request() (r Request, err error) {
	r = Request{Method: x.head.Method, Request: wire.Request{Protocol: wire.HTTP, Command: wire.CommandConnect, Dest: x.to.Dest}}
	c, given, err := x.head.Credentials()
	if given {
		r.Credentials = &c
	}
	return r, err
}

// carryOut does what the verdict says.
func (x *exchange) carryOut(ctx context.Context) (goesOn bool) {
	switch {
	case x.verdict.AskLogin:
		return x.refuse(httpproxy.AuthRequired(x.opts.Challenges, !x.verdict.Close))
	case x.verdict.Reply != wire.ReplySucceeded:
		return x.refuse(x.verdict.Refusal)
	}
	if n, limited := maxForwards(x.head); limited && n == 0 {
		return x.refuse(httpproxy.Refusal{Status: http.StatusOK, Reason: "This proxy is the last that the request may reach.", Keep: true})
	}
	return x.forward(ctx)
}

// done reports how it ended.
func (x *exchange) done() {
	in, out := x.client.in.Load(), x.client.out.Load()
	x.outcome.BytesIn, x.outcome.BytesOut = in-x.in, out-x.out
	x.in, x.out = in, out
	if x.upgrade != nil {
		x.upgrade.Outcome = x.outcome
		return
	}
	if x.verdict.Done != nil {
		x.verdict.Done(x.outcome)
	}
}

// maxTries bounds the servers that one request meets: a kept one that has gone
// stale, a member of a pool that refuses us, and one more.
const maxTries = 3

// forward sends the request on and its answer back.
func (x *exchange) forward(ctx context.Context) (goesOn bool) {
	x.watch()
	defer x.stopWatch()
	for try := 1; ; try++ {
		v, err := x.server(ctx, try)
		if err != nil {
			return x.failed(ctx, err)
		}
		x.outcome.Server = v.conn.Conn
		err = x.over(ctx, v, &goesOn)
		again, isAgain := errors.AsType[*againError](err)
		switch {
		case err == nil:
			return goesOn
		case !isAgain:
			return x.failed(ctx, err)
		case try == maxTries || !x.repeatable() || ctx.Err() != nil:
			return x.failed(ctx, again.err)
		}
	}
}

// againError is a failure that says nothing of the destination: the request
// may be sent again, if it is one to be repeated.
type againError struct{ err error }

func (e *againError) Error() string { return e.err.Error() }
func (e *againError) Unwrap() error { return e.err }

// repeatable reports whether the request may reach its server twice (RFC 9110
// §9.2.2), and is still here to be sent again.
func (x *exchange) repeatable() bool {
	if x.head.Chunked || x.head.Length > 0 {
		return false
	}
	switch x.head.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// server is a kept connection, or a new one.
func (x *exchange) server(ctx context.Context, try int) (*server, error) {
	if try == 1 {
		if v := x.kept.take(x.verdict.Key, x.to.Dest, x.repeatable()); v != nil {
			return v, nil
		}
	}
	v, err := x.dial(ctx, &x.verdict, x.to.Dest)
	if err != nil {
		return nil, &dialError{err}
	}
	return v, nil
}

// dialError marks an error as the dialer's.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// over carries the request out over one connection, which it closes or keeps.
func (x *exchange) over(ctx context.Context, v *server, goesOn *bool) error {
	keep := false
	defer func() {
		switch {
		case x.upgrade != nil && x.upgrade.Server == v.conn.Conn:
			v.forget()
		case keep:
			x.kept.put(v)
		default:
			v.close()
		}
	}()
	defer context.AfterFunc(ctx, v.expire)()
	if names(x.head, "Authorization") {
		v.pinned = true
	}
	// A server may answer and close before it has read all: what it said counts,
	// not that the rest could not be sent.
	sent := v.write(x.requestHead(v))
	up := x.upload(ctx, v, sent != nil)
	defer up.abandon()
	answer, err := x.answer(v)
	if err != nil {
		if sent != nil {
			err = fmt.Errorf("%w; %w", err, sent)
		}
		return x.noAnswer(v, up, err)
	}
	defer answer.Release()
	if answer.Status == http.StatusProxyAuthRequired && v.conn.Parent != nil {
		return &againError{v.conn.Parent.Refused(answer.Status)}
	}
	if answer.Status == http.StatusSwitchingProtocols {
		return x.switchProtocols(v, up, answer)
	}
	keep, *goesOn = x.relay(ctx, v, up, answer)
	return nil
}

// noAnswer is why there is none.
func (x *exchange) noAnswer(v *server, up *upload, err error) error {
	switch broken := up.broken(); {
	case broken != nil:
		return broken
	case v.again && !isTimeout(err) && !v.heads.Started():
		return &againError{err}
	}
	return err
}

// answer reads the final answer's head. Interim ones before it are passed on.
func (x *exchange) answer(v *server) (*httpproxy.Answer, error) {
	const most = 32
	for range most {
		a, err := v.heads.ReadAnswer(v.r, x.head.Method)
		if err != nil {
			return nil, err
		}
		v.moved()
		if !a.Interim() {
			return a, nil
		}
		if x.head.Minor >= 1 { // RFC 9110 §15.2: not to a client of HTTP/1.0
			_, err = x.client.write(appendInterim(nil, a))
		}
		a.Release()
		if err != nil {
			return nil, &clientError{err}
		}
	}
	return nil, httpproxy.ErrMalformedAnswer
}

// clientError is a client that cannot be written to, or that broke off.
type clientError struct{ err error }

func (e *clientError) Error() string { return e.err.Error() }
func (e *clientError) Unwrap() error { return e.err }

// failed answers a request that could not be forwarded.
func (x *exchange) failed(ctx context.Context, err error) (goesOn bool) {
	x.outcome.Err = err
	_, dialled := errors.AsType[*dialError](err)
	_, isClient := errors.AsType[*clientError](err)
	idle := errors.Is(context.Cause(ctx), errIdle)
	var refusal httpproxy.Refusal
	switch {
	case ctx.Err() != nil && !idle, isClient:
		x.outcome.Err = context.Canceled
		return false
	case errors.Is(err, httpproxy.ErrMalformedBody):
		x.outcome.Reply = wire.ReplyGeneralFailure
		refusal = httpproxy.Refusal{Status: http.StatusBadRequest, Reason: "The request's body is malformed."}
	case idle, isTimeout(err) && !dialled:
		x.outcome.Reply = wire.ReplyTTLExpired
		refusal = httpproxy.Refusal{Status: http.StatusGatewayTimeout, Reason: httpproxy.Reason(wire.ReplyTTLExpired)}
	default:
		if x.outcome.Reply, refusal = x.opts.Refusal(err); !dialled && x.outcome.Reply == wire.ReplyGeneralFailure && refusal.Reason == httpproxy.Reason(wire.ReplyGeneralFailure) {
			refusal.Reason = "The destination's answer was cut short or malformed."
			refusal.Fields = httpproxy.ProxyStatus{Error: "http_protocol_error"}.Line()
		}
		refusal.Keep = true
	}
	return x.refuse(refusal)
}

// refuse answers with what the proxy itself has to say.
func (x *exchange) refuse(r httpproxy.Refusal) (goesOn bool) {
	x.stopWatch()
	goesOn = r.Keep && x.head.KeepsAlive() && !x.draining() && (x.body.Ended() || !expects(x.head) && x.head.Length <= maxSkipped)
	r.Keep = goesOn
	x.outcome.Status = r.Status
	if _, err := x.client.write(r.Append(nil, x.head.Method)); err != nil {
		return false
	}
	if goesOn && x.skip(maxSkipped) {
		return true
	}
	x.linger()
	return false
}

// maxSkipped bounds what is read of a body that nobody wants so that the
// connection may go on.
const maxSkipped = 256 << 10

// A client that sends a large body reads the answer when it is done with that,
// or when it cannot go on. Closed before, its connection is reset, and the
// answer lost. (nginx's lingering_time and lingering_timeout.)
const (
	lingerTime  = 30 * time.Second
	lingerPause = 5 * time.Second
)

// linger takes in what a client sends that has its last answer.
func (x *exchange) linger() {
	if x.body.Ended() || x.client.over() {
		return
	}
	x.client.closeWrite()
	x.skip(0)
}

// skip reads a body to its end, up to a number of bytes unless that is 0, and
// reports whether it came that far.
func (x *exchange) skip(most int64) bool {
	defer x.client.readBy(time.Time{})
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	until := time.Now().Add(lingerTime)
	for read := int64(0); most == 0 || read <= most; {
		now := time.Now()
		if now.After(until) || x.client.over() {
			return false
		}
		x.client.readBy(now.Add(lingerPause))
		n, err := x.body.Read(*buf)
		x.client.took(n)
		read += int64(n)
		if err != nil {
			return errors.Is(err, io.EOF)
		}
	}
	return false
}

// watch looks after a client from which nothing is read for a while.
func (x *exchange) watch() { x.unwatch = x.opts.Watch() }

func (x *exchange) stopWatch() {
	if x.unwatch != nil {
		x.unwatch()
		x.unwatch = nil
	}
}

// names reports a scheme of an authorization field that is about the
// connection, not about the request.
func names(h *httpproxy.Head, field string) bool {
	value, _ := h.Get(field)
	scheme, _, _ := strings.Cut(value, " ")
	return strings.EqualFold(scheme, "NTLM") || strings.EqualFold(scheme, "Negotiate")
}

// expects reports a client that may hold its body back until it is asked for.
func expects(h *httpproxy.Head) bool {
	value, ok := h.Get("Expect")
	return ok && strings.EqualFold(value, "100-continue")
}
