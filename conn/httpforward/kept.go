package httpforward

import (
	"bufio"
	"context"
	"net"
	"slices"
	"sync"
	"time"

	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
)

const (
	maxKept  = 4                // server connections that wait for another request
	keptIdle = 30 * time.Second // how long one waits
)

// server is a connection to a server or to a parent.
type server struct {
	conn   Server
	r      *bufio.Reader
	heads  httpproxy.HeadReader
	key    string
	dest   wire.Addr
	again  bool // it has served a request, or has waited for this one
	since  time.Time
	pinned bool // its server knows the user by the connection: NTLM, Negotiate
	moved  func()
}

// readers are for servers, which take them while they are asked and as long as
// they are kept.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4<<10) }}

func (s *session) newServer(conn Server, key string, dest wire.Addr) *server {
	r := readers.Get().(*bufio.Reader)
	r.Reset(conn)
	return &server{
		conn: conn, r: r, heads: httpproxy.HeadReader{Budget: s.opts.Heads}, key: key, dest: dest,
		again: conn.Again, moved: s.idle.touch,
	}
}

func (v *server) close() {
	_ = v.conn.Close()
	v.heads.Release()
	v.forget()
}

// forget gives the reader back, without the connection.
func (v *server) forget() {
	if v.r != nil {
		v.r.Reset(nil)
		readers.Put(v.r)
		v.r = nil
	}
}

// expire ends every read and write.
func (v *server) expire() { _ = v.conn.SetDeadline(time.Unix(1, 0)) }

func (v *server) write(p []byte) error {
	n, err := v.conn.Write(p)
	if n > 0 {
		v.moved()
	}
	return err
}

// alive reports whether the server has neither closed nor said anything since
// its last answer.
func (v *server) alive() bool {
	if v.r.Buffered() > 0 || time.Since(v.since) > keptIdle {
		return false
	}
	quiet, ok := v.conn.Conn.(interface{ Quiet() bool })
	return !ok || quiet.Quiet()
}

// kept are server connections that wait for another request, the youngest
// last. The zero value is ready.
type kept struct{ list []*server }

func (k *kept) any() bool { return len(k.list) > 0 }

// take is a connection that the key opened to dest, or nil. One that is used
// again may turn out to be closed, which a request that cannot be repeated
// must not meet: it gets only one that its server knows the user by.
func (k *kept) take(key string, dest wire.Addr, repeatable bool) *server {
	for i, v := range slices.Backward(k.list) {
		if v.key != key || v.dest != dest || !repeatable && !v.pinned {
			continue
		}
		k.list = slices.Delete(k.list, i, i+1)
		if v.alive() {
			return v
		}
		v.close()
	}
	return nil
}

// put keeps a connection. Those of another key will never be asked for again.
func (k *kept) put(v *server) {
	v.again, v.since = true, time.Now()
	_ = v.conn.SetDeadline(time.Time{}) // what fails now fails at its next use
	for len(k.list) >= maxKept || len(k.list) > 0 && k.list[0].key != v.key {
		k.list[0].close()
		k.list = k.list[1:]
	}
	k.list = append(k.list, v)
}

func (k *kept) closeAll() {
	for _, v := range k.list {
		v.close()
	}
	k.list = nil
}

// dial opens a connection for a request.
func (s *session) dial(ctx context.Context, v *Verdict, dest wire.Addr) (*server, error) {
	conn, err := v.Dial(ctx, dest)
	if err != nil {
		return nil, err
	}
	return s.newServer(conn, v.Key, dest), nil
}

var _ net.Conn = Server{}
