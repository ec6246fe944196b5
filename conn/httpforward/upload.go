package httpforward

import (
	"context"
	"errors"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"cleversocks/conn/task"
	"cleversocks/conn/wire/httpproxy"
)

// bufferSize is what one read of a body takes at most.
const bufferSize = 32 << 10

// buffers are for bodies under way.
var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// upload is a request's body on its way to the server, on a goroutine of its
// own: an answer may come before it has ended.
type upload struct {
	x     *exchange
	v     *server
	scope *task.Scope // nil: there was no body
	done  chan struct{}
	err   error       // of the client; valid once done
	lost  atomic.Bool // the server takes no more, what comes is dropped
	// late is since when it goes on behind its answer, whatever the wall's clock is set to;
	// nil: it does not.
	late atomic.Pointer[time.Time]
}

// upload begins to send the body, if there is one. One whose head was lost is
// read all the same.
func (x *exchange) upload(ctx context.Context, v *server, lost bool) *upload {
	u := &upload{x: x, v: v, done: make(chan struct{})}
	if x.body.Ended() {
		close(u.done)
		return u
	}
	x.stopWatch() // the upload sees the client leave by itself
	u.lost.Store(lost)
	u.scope, _ = task.New(ctx, x.opts.Panics, "httpforward")
	u.scope.Go(func() error {
		defer func() {
			close(u.done)
			if u.err != nil {
				// The server must not take what came for a whole request.
				v.expire()
			}
		}()
		u.err = errAborted // should it panic
		if u.err = u.run(); u.err == nil {
			x.watch()
		}
		return nil
	})
	return u
}

// run sends the body.
func (u *upload) run() error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	chunked := u.x.head.Chunked
	var framed []byte
	for {
		if u.tooLate() {
			return errLate
		}
		n, err := u.x.body.Read(*buf)
		u.x.client.took(n)
		if n > 0 {
			part := (*buf)[:n]
			if chunked {
				framed = appendChunk(framed[:0], part)
				part = framed
			}
			u.send(part)
		}
		switch {
		case errors.Is(err, io.EOF):
			if chunked {
				// The client's trailer is left out: nobody here judged it.
				u.send([]byte("0\r\n\r\n"))
			}
			return nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return &clientError{err}
		case err != nil && !isMalformed(err):
			return &clientError{err}
		case err != nil:
			return err
		}
	}
}

// errAborted is a body that ended for a defect of ours.
var errAborted = errors.New("the request's body broke off")

// errLate is a body whose client sends on and on behind its answer.
var errLate = errors.New("the rest of the request took too long")

func (u *upload) send(p []byte) {
	if !u.lost.Load() && u.v.write(p) != nil {
		u.lost.Store(true)
	}
}

// tooLate bounds a body that goes on behind its answer: the pauses, and if
// nobody wants it any more, all of it.
func (u *upload) tooLate() bool {
	late := u.late.Load()
	if late == nil {
		return false
	}
	now := time.Now()
	u.bound(now)
	return u.lost.Load() && now.After(late.Add(lingerTime))
}

func (u *upload) bound(now time.Time) {
	u.x.client.readBy(now.Add(lingerPause))
	_ = u.v.conn.SetWriteDeadline(now.Add(lingerPause))
}

// over reports whether the body has ended, one way or another.
func (u *upload) over() bool {
	select {
	case <-u.done:
		return true
	default:
		return false
	}
}

// complete waits, behind the answer, for the rest of the body, and reports
// whether all of it came, and whether the server took it. Without wanted the
// server is closed, and the rest is for nobody.
func (u *upload) complete(wanted bool) (read, sent bool) {
	if !u.over() {
		if !wanted {
			u.lost.Store(true)
			_ = u.v.conn.Close()
		}
		now := time.Now()
		u.late.Store(&now)
		u.bound(now)
	}
	<-u.done
	return u.err == nil, u.err == nil && !u.lost.Load()
}

// broken is what is wrong with the client's side of a body that has ended.
func (u *upload) broken() error {
	if !u.over() {
		return nil
	}
	return u.err
}

// abandon ends the upload and waits for it: nobody reads the client's bytes
// but who comes next.
func (u *upload) abandon() {
	if u.scope == nil {
		return
	}
	if !u.over() {
		_ = u.v.conn.Close()
		u.x.client.interruptRead()
	}
	_ = u.scope.Wait() // what it says is in err
	u.x.client.readBy(time.Time{})
}

// appendChunk appends content in the chunked coding.
func appendChunk(b, content []byte) []byte {
	b = strconv.AppendInt(b, int64(len(content)), 16)
	b = append(b, "\r\n"...)
	b = append(b, content...)
	return append(b, "\r\n"...)
}

func isMalformed(err error) bool { return errors.Is(err, httpproxy.ErrMalformedBody) }
