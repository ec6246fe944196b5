package listener

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cleversocks/conn/adopt"
)

// tcpSocket is a TCP socket that listens. While reactors accept from it, it is a
// descriptor that Go's poller does not know: that poller would wake a thread for
// each connection which somebody else accepts, a twentieth of what one costs.
type tcpSocket struct {
	addr   net.Addr
	shared bool

	mu       sync.Mutex
	polled   *net.TCPListener // nil: nobody accepts by Accept
	bare     int              // the descriptor in its place
	file     *os.File         // has it, where one more descriptor could not be had for polled; nil: nobody does
	deadline time.Time        // of Accept
	closed   bool
}

func newTCPSocket(l *net.TCPListener, shared bool) socket {
	return &tcpSocket{addr: l.Addr(), shared: shared, polled: l, bare: -1}
}

// Shared says that another program has the socket too.
func (s *tcpSocket) Shared() bool { return s.shared }

// Addr is the address that is bound.
func (s *tcpSocket) Addr() net.Addr { return s.addr }

// Accept takes the next connection. Whatever Leave has begun has to be over.
func (s *tcpSocket) Accept() (net.Conn, error) {
	l, err := s.poll()
	if err != nil {
		return nil, err
	}
	return l.Accept()
}

// poll has Go's poller know the socket.
func (s *tcpSocket) poll() (*net.TCPListener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, net.ErrClosed
	}
	if s.polled != nil {
		return s.polled, nil
	}
	if s.file == nil {
		s.file = os.NewFile(uintptr(s.bare), "")
	}
	l, err := net.FileListener(s.file) // has a descriptor of its own: there may be one left, but not two
	if err != nil {
		return nil, err
	}
	s.polled = l.(*net.TCPListener) // it was one
	_ = s.closeBare()
	return s.polled, s.polled.SetDeadline(s.deadline)
}

// closeBare closes the descriptor in its place. The caller holds the lock.
func (s *tcpSocket) closeBare() error {
	file, fd := s.file, s.bare
	s.file, s.bare = nil, -1
	if file != nil {
		return file.Close()
	}
	return unix.Close(fd)
}

// Leave makes one more descriptor of the socket, which is the caller's, to accept
// from. It is for who calls Accept, and Go's poller leaves the socket alone until
// the next call.
func (s *tcpSocket) Leave() (fd int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return -1, net.ErrClosed
	}
	if s.polled == nil && s.file == nil {
		return adopt.Duplicate(s.bare)
	}
	bare := -1
	controlErr := s.control(func(own uintptr) {
		if fd, err = adopt.Duplicate(int(own)); err != nil {
			return
		}
		if bare, err = adopt.Duplicate(int(own)); err != nil {
			_ = unix.Close(fd)
		}
	})
	if err = errors.Join(controlErr, err); err != nil {
		return -1, err
	}
	_ = s.closeOwn() // the socket listens on
	s.polled, s.bare = nil, bare
	return fd, nil
}

// SetDeadline is Accept's.
func (s *tcpSocket) SetDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.deadline = t
	if s.polled == nil {
		return nil
	}
	return s.polled.SetDeadline(t)
}

// Close ends Accept. Whoever has a descriptor of the socket keeps it.
func (s *tcpSocket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.closed = true
	return s.closeOwn()
}

// closeOwn closes the descriptor, whichever it is. The caller holds the lock.
func (s *tcpSocket) closeOwn() error {
	if s.polled != nil {
		return s.polled.Close()
	}
	return s.closeBare()
}

// SyscallConn gives access to the descriptor.
func (s *tcpSocket) SyscallConn() (syscall.RawConn, error) { return tcpRaw{s}, nil }

// tcpRaw is a tcpSocket's descriptor, whichever it is. It does not wait.
type tcpRaw struct{ *tcpSocket }

// Control calls f with the descriptor.
func (s tcpRaw) Control(f func(fd uintptr)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	return s.control(f)
}

// control is Control for who holds the lock.
func (s *tcpSocket) control(f func(fd uintptr)) error {
	if s.polled == nil {
		f(uintptr(s.bare))
		return nil
	}
	raw, err := s.polled.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(f)
}

// Read is for sockets that have something to read.
func (tcpRaw) Read(func(fd uintptr) bool) error { return errors.ErrUnsupported }

// Write is for sockets that something can be written to.
func (tcpRaw) Write(func(fd uintptr) bool) error { return errors.ErrUnsupported }
