package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"

	"cleversocks/conn/task"
	"cleversocks/metrics"
)

// maxForged is how many datagrams one socket takes that answer nothing which
// was asked from it, before its queries go on over TCP, where none can be
// injected.
const maxForged = 32

// errForged says that a query's socket received too many wrong answers.
var errForged = errors.New("too many wrong answers")

// udpSockets bounds the sockets of all servers together. A query has a socket
// of its own, with a random port that a forger must guess, as long as there are
// few; beyond the bound, queries share: names whose servers say nothing, however
// many clients ask for, cost no more descriptors than that, and hold up nobody.
type udpSockets struct {
	most    int
	dropped metrics.CounterVec
	shared  *metrics.Counter // queries without a socket of their own
	scope   *task.Scope      // of the readers

	mu   sync.Mutex
	open int
}

// of is the sockets towards one server.
func (u *udpSockets) of(addr netip.AddrPort) *serverSockets {
	return &serverSockets{shared: u, addr: addr}
}

// serverSockets are the open sockets towards one server.
type serverSockets struct {
	shared *udpSockets
	addr   netip.AddrPort

	mu   sync.Mutex
	open []*udpSocket
}

// udpSocket is connected to a server and has at least one query under way; the
// last one closes it.
type udpSocket struct {
	conn    net.Conn
	owner   *serverSockets
	waiting map[uint16]*datagramWaiter // guarded by owner.mu, as is forged
	forged  int
}

// datagramWaiter is one query under way. Each channel has room for its one
// outcome: done ends the wait, doubt is an answer that may be a forgery.
type datagramWaiter struct {
	query query
	done  chan outcome
	doubt chan error
}

// ask sends one datagram and waits for the answer to it.
func (s *serverSockets) ask(ctx context.Context, q query) (*dns.Msg, error) {
	socket, w, err := s.enter(ctx, q)
	if err != nil {
		return nil, endOf(ctx, err)
	}
	defer s.leave(socket, w)
	raw, err := w.query.msg.Pack()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	if _, err = socket.conn.Write(raw); err != nil {
		return nil, endOf(ctx, err)
	}
	doubt := w.doubt
	var doubted error
	var grace <-chan time.Time
	for {
		select {
		case o := <-w.done:
			return o.reply, o.err
		case doubted = <-doubt:
			timer := time.NewTimer(caseGrace)
			defer timer.Stop()
			grace = timer.C
			doubt = nil
		case <-grace:
			return nil, doubted
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// enter registers a query at a socket, a new one as long as there may be more.
func (s *serverSockets) enter(ctx context.Context, q query) (*udpSocket, *datagramWaiter, error) {
	w := &datagramWaiter{query: q, done: make(chan outcome, 1), doubt: make(chan error, 1)}
	if socket := s.join(w); socket != nil {
		return socket, w, nil
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", s.addr.String())
	if err != nil {
		s.shared.give()
		return nil, nil, err
	}
	socket := &udpSocket{conn: conn, owner: s, waiting: map[uint16]*datagramWaiter{w.query.msg.Id: w}}
	s.mu.Lock()
	s.open = append(s.open, socket)
	s.mu.Unlock()
	s.shared.scope.Go(func() error {
		defer socket.end(errGone) // if it panics, for who waits
		socket.read()
		return nil
	})
	return socket, w, nil
}

// join registers a query at one of the open sockets, if there may be no more of
// them. Without it, the caller has one of the places and must open one.
func (s *serverSockets) join(w *datagramWaiter) *udpSocket {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shared.take(len(s.open) == 0) {
		return nil
	}
	socket := s.open[rand.IntN(len(s.open))] //nolint:gosec // spreads load; ids and ports are what is secret
	for socket.waiting[w.query.msg.Id] != nil {
		w.query.msg.Id = randomID()
	}
	socket.waiting[w.query.msg.Id] = w
	return socket
}

// take is one more socket, if the bound allows it, or this server has none: with
// all taken by others it would not be asked at all.
func (u *udpSockets) take(anyway bool) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.open >= u.most && !anyway {
		u.shared.Inc()
		return false
	}
	u.open++
	return true
}

func (u *udpSockets) give() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.open--
}

// leave ends the wait for a query, and with the last one the socket.
func (s *serverSockets) leave(socket *udpSocket, w *datagramWaiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(socket.waiting, w.query.msg.Id)
	if len(socket.waiting) > 0 {
		return
	}
	for i, open := range s.open {
		if open == socket {
			s.open[i] = s.open[len(s.open)-1]
			s.open = s.open[:len(s.open)-1]
			s.shared.give()
			_ = socket.conn.Close()
			return
		}
	}
}

// read hands each datagram to the query that it answers, until the socket is
// closed. An error that comes without that is the server's: its port is closed.
func (u *udpSocket) read() {
	buf := make([]byte, 4096)
	for {
		n, err := u.conn.Read(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			u.end(err)
			continue
		}
		u.deliver(buf[:n])
	}
}

// deliver finds the query that a datagram answers. It is dropped when it does
// not fit, and noted when it has a query's id all the same.
func (u *udpSocket) deliver(raw []byte) {
	u.owner.mu.Lock()
	defer u.owner.mu.Unlock()
	var w *datagramWaiter
	if len(raw) >= 2 {
		w = u.waiting[binary.BigEndian.Uint16(raw)]
	}
	reply, err := (*dns.Msg)(nil), errID
	switch {
	case w != nil:
		reply, err = parseReply(raw, w.query)
	case len(raw) < 12: // not even a header
		err = errMalformed
	}
	if err != nil {
		u.owner.shared.dropped.Of(dropReason(err)).Inc()
		u.doubt(w, err)
		return
	}
	select {
	case w.done <- outcome{reply: reply}:
	default: // it has an answer already
	}
}

// doubt notes a datagram that answers nothing; w is the query of its id, if any.
// The lock is held.
func (u *udpSocket) doubt(w *datagramWaiter, err error) {
	if w != nil && (errors.Is(err, errCase) || errors.Is(err, errMalformed)) {
		select {
		case w.doubt <- err:
		default: // it is in doubt already
		}
	}
	if u.forged++; u.forged < maxForged {
		return
	}
	for _, w := range u.waiting {
		select {
		case w.done <- outcome{err: errForged}:
		default:
		}
	}
}

// end fails the queries under way.
func (u *udpSocket) end(err error) {
	u.owner.mu.Lock()
	defer u.owner.mu.Unlock()
	for _, w := range u.waiting {
		select {
		case w.done <- outcome{err: err}:
		default:
		}
	}
}
