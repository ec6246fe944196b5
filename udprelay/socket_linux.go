package udprelay

import (
	"context"
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// socket is a UDP socket that is read and written in batches. One goroutine
// reads it, several may write.
type socket struct {
	conn   *net.UDPConn
	rc     syscall.RawConn
	gsoMax gsoLimit
	errors *errorQueue // nil: ICMP errors are not asked for
}

// newSocket takes conn over; the caller still closes the socket.
func newSocket(conn *net.UDPConn) (*socket, error) {
	rc, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{conn: conn, rc: rc}
	s.gsoMax.Store(firstGSO)
	_ = conn.SetReadBuffer(ReceiveBuffer) // as far as net.core.rmem_max lets it
	enableGRO(rc)
	refuseBroadcast(rc)
	return s, nil
}

// refuseBroadcast takes back what package net allows every socket: one
// datagram of a client is not to become one for each host of a network. The
// kernel alone knows which addresses those are.
func refuseBroadcast(rc syscall.RawConn) {
	_ = rc.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 0)
	})
}

func (s *socket) close() { _ = s.conn.Close() }

// receive hands batches to handle until the socket is closed or ctx ends. It
// holds a batch only between readiness and handle's return. The error says
// why reading ended; it is nil after close or ctx's end.
func (s *socket) receive(ctx context.Context, p *pool, handle func(b *batch, n int)) error {
	err := s.rc.Read(func(fd uintptr) bool {
		for ctx.Err() == nil {
			n, errno, ok := p.turn(ctx, fd, handle)
			switch {
			case !ok:
				return true
			case errno == unix.EAGAIN || errno == 0 && n < slots:
				// Drained: the poller is edge-triggered, so a datagram that
				// came since makes the wait return at once.
				return false
			case errno != 0 && transient(errno):
				s.errors.drain(fd)
			case errno != 0:
				return false // ENOMEM and its like pass: the next datagram tries again
			}
		}
		return true
	})
	if ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// turn receives one batch and hands it to handle; ok is false once ctx has
// ended.
func (p *pool) turn(ctx context.Context, fd uintptr, handle func(b *batch, n int)) (n int, errno syscall.Errno, ok bool) {
	b := p.get(ctx)
	if b == nil {
		return 0, 0, false
	}
	defer func() {
		if !ok {
			b = newBatch() // handle panicked: what it left behind is nobody's to use
		}
		p.put(b)
	}()
	if n, errno = b.receive(fd); n > 0 {
		handle(b, n)
	}
	return n, errno, true
}

// transient reports errors that say nothing about the socket: an interrupted
// call, or an ICMP error about a datagram sent earlier.
func transient(errno syscall.Errno) bool {
	switch errno {
	case unix.EINTR, unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN,
		unix.ENETDOWN, unix.EPROTO, unix.EMSGSIZE, unix.ENOPROTOOPT, unix.EACCES:
		return true
	default:
		return false
	}
}
