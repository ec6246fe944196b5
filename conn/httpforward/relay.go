package httpforward

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"

	"cleversocks/conn/wire/httpproxy"
)

// coding is how an answer's body goes to the client.
type coding uint8

const (
	asItIs     coding = iota // by a length, or none at all
	inChunks                 // how long it is nobody knows
	untilClose               // likewise, for a client of HTTP/1.0
)

// coding is the one that client and answer have in common.
func (x *exchange) coding(a *httpproxy.Answer) coding {
	switch {
	case a.ICY:
		return untilClose
	case !a.Chunked && a.Length != httpproxy.UntilClose:
		return asItIs
	case x.head.Minor >= 1:
		return inChunks
	}
	return untilClose
}

// relay passes an answer on. It reports whether the server's connection may
// serve another request, and whether the client's goes on.
func (x *exchange) relay(ctx context.Context, v *server, up *upload, a *httpproxy.Answer) (keep, goesOn bool) {
	code := x.coding(a)
	goesOn = code != untilClose && x.head.KeepsAlive() && !x.draining()
	if !up.over() && (!a.Reusable || expects(x.head)) {
		// The server answers without having heard all, and hears no more: the
		// client is told so, and may stop sending.
		goesOn = false
	}
	x.outcome.Status = a.Status
	body := a.Body(v.r)
	head := appendAnswerHead(nil, a, code, x.head, goesOn)
	if fields := x.verdict.Fields; fields != "" {
		head = append(append(head[:len(head)-len("\r\n")], fields...), "\r\n"...)
	}
	if err := x.sendAnswer(v, head, body, code); err != nil {
		x.outcome.Err = err
		if _, isClient := errors.AsType[*clientError](err); isClient || ctx.Err() != nil {
			x.outcome.Err = context.Canceled
		}
		// To a client of HTTP/1.0 the answer must not look whole.
		x.broken = code == untilClose && errors.Is(err, ErrCutShort)
		return false, false
	}
	if code == untilClose || !goesOn {
		x.client.closeWrite()
	}
	if names(x.head, "Authorization") || challenges(a) {
		v.pinned = true
	}
	expected := goesOn || a.Reusable && !expects(x.head)
	read, sent := up.complete(expected)
	keep = a.Reusable && sent && body.Ended() && v.r.Buffered() == 0
	return keep, goesOn && read
}

// challenges reports a server that goes on to know its user by the connection.
func challenges(a *httpproxy.Answer) bool {
	if a.Status != http.StatusUnauthorized {
		return false
	}
	for _, f := range a.Fields {
		if strings.EqualFold(f.Name, "WWW-Authenticate") && names(&httpproxy.Head{Fields: []httpproxy.Field{f}}, f.Name) {
			return true
		}
	}
	return false
}

// sendAnswer sends an answer's head, and its body as it comes. The error is
// ErrCutShort when the server broke off, which the client sees by an answer
// without an end.
func (x *exchange) sendAnswer(v *server, head []byte, body *httpproxy.Body, code coding) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	out := head
	if body.Ended() || v.r.Buffered() == 0 {
		// Nothing to go with it yet.
		if _, err := x.client.write(out); err != nil {
			return &clientError{err}
		}
		out = out[:0]
	}
	for {
		n, err := body.Read(*buf)
		if n > 0 {
			v.moved()
			part := (*buf)[:n]
			switch {
			case code == inChunks:
				out = appendChunk(out, part)
				part = out
			case len(out) > 0:
				out = append(out, part...)
				part = out
			}
			if _, werr := x.client.write(part); werr != nil {
				return &clientError{werr}
			}
			out = out[:0]
		}
		switch {
		case errors.Is(err, io.EOF):
			return x.endAnswer(out, body, code)
		case err != nil:
			if len(out) > 0 {
				_, _ = x.client.write(out) // the head is worth something
			}
			return errors.Join(ErrCutShort, err)
		}
	}
}

// endAnswer sends what is left when the body has ended.
func (x *exchange) endAnswer(out []byte, body *httpproxy.Body, code coding) error {
	if code == inChunks {
		out = append(out, "0\r\n"...)
		for _, f := range body.Trailer {
			out = appendField(out, f)
		}
		out = append(out, "\r\n"...)
	}
	if len(out) == 0 {
		return nil
	}
	if _, err := x.client.write(out); err != nil {
		return &clientError{err}
	}
	return nil
}

// errSwitch is a server that goes over to what nobody asked for.
var errSwitch = errors.New("the server switched to a protocol that nobody asked for")

// switchProtocols passes a 101 on and leaves the two connections to the
// caller.
func (x *exchange) switchProtocols(v *server, up *upload, a *httpproxy.Answer) error {
	if !asksFor(x.head, a) {
		return errSwitch
	}
	if read, sent := up.complete(true); !read || !sent {
		return &clientError{io.ErrUnexpectedEOF}
	}
	x.stopWatch()
	x.outcome.Status = a.Status
	if _, err := x.client.write(appendAnswerHead(nil, a, asItIs, x.head, true)); err != nil {
		return &clientError{err}
	}
	ahead, _ := v.r.Peek(v.r.Buffered())
	x.upgrade = &Upgrade{Server: v.conn.Conn, Ahead: append([]byte(nil), ahead...)}
	return nil
}

// asksFor reports whether the client asked for the protocol that the server
// goes over to (RFC 9110 §7.8).
func asksFor(h *httpproxy.Head, a *httpproxy.Answer) bool {
	wanted, ok := upgradeOf(h)
	if !ok {
		return false
	}
	got, told := a.Get("Upgrade")
	if !told {
		return true
	}
	for protocol := range strings.SplitSeq(wanted, ",") {
		if strings.EqualFold(strings.TrimSpace(protocol), got) {
			return true
		}
	}
	return false
}
