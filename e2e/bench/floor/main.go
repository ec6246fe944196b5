//go:build linux

// Command floor is a yardstick of the benchmark: what a SOCKS5 proxy on one thread
// costs at least, with one epoll and a read and a write for each message, and
// nothing around them: no policy, no limits, no time-outs, no records. It must not
// change.
package main

import (
	"fmt"
	"log"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// stage is how far a connection is.
type stage int

const (
	greets stage = iota
	requests
	dials
	relays
)

// tunnel is a connection: the client's socket, and the server's once it is dialed.
type tunnel struct {
	stage  stage
	fd     [2]int
	rest   [2][]byte // of what came from each that the other had no room for
	ended  [2]bool
	closed bool
}

type loop struct {
	epoll, listener int
	tunnels         []*tunnel // by descriptor
	buf             [64 << 10]byte
}

func main() {
	address, err := netip.ParseAddrPort(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	l := &loop{listener: must(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)), epoll: must(unix.EpollCreate1(unix.EPOLL_CLOEXEC))}
	check(unix.SetsockoptInt(l.listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	check(unix.SetsockoptInt(l.listener, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)) // for what it accepts too
	check(unix.Bind(l.listener, &unix.SockaddrInet4{Addr: address.Addr().As4(), Port: int(address.Port())}))
	check(unix.Listen(l.listener, 1024))
	check(unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, l.listener, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(l.listener)}))
	var events [128]unix.EpollEvent
	for {
		n, _, _ := unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), ^uintptr(0), 0, 0)
		if n > uintptr(len(events)) {
			continue // interrupted
		}
		for _, e := range events[:n] {
			l.serve(int(e.Fd), e.Events)
		}
	}
}

func must(fd int, err error) int { check(err); return fd }

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (l *loop) serve(fd int, events uint32) {
	if fd == l.listener {
		l.accept()
		return
	}
	t := l.tunnels[fd]
	if t == nil {
		return
	}
	side := 0
	if fd == t.fd[1] {
		side = 1
	}
	switch {
	case t.stage == relays:
		t.pass(l, 1-side) // there may be room
		if len(t.rest[side]) == 0 && !t.ended[side] {
			t.take(l, side)
		}
	case side == 1 && events&(unix.EPOLLERR|unix.EPOLLHUP) != 0:
		t.close(l)
	case side == 1:
		t.stage = relays
		t.send(l, 0, []byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	case t.stage == greets:
		if l.read(t) {
			t.stage = requests
			t.send(l, 0, []byte{5, 0})
		}
	case t.stage == requests:
		if l.read(t) {
			t.dial(l)
		}
	}
}

func (l *loop) accept() {
	fd, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(l.listener), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno == 0 {
		l.watch(&tunnel{fd: [2]int{int(fd), -1}}, int(fd), unix.EPOLLIN|unix.EPOLLRDHUP)
	}
}

func (l *loop) watch(t *tunnel, fd int, events uint32) {
	for len(l.tunnels) <= fd {
		l.tunnels = append(l.tunnels, nil)
	}
	l.tunnels[fd] = t
	_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events | unix.EPOLLET&0xffffffff, Fd: int32(fd)})
}

// read has a message of the handshake in the buffer, each of which comes in one
// piece here.
func (l *loop) read(t *tunnel) bool {
	if n, _ := call(unix.SYS_READ, t.fd[0], l.buf[:]); n <= 0 {
		t.close(l)
		return false
	}
	return true
}

// dial connects to an IPv4 address.
func (t *tunnel) dial(l *loop) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.close(l)
		return
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	_ = unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte(l.buf[4:8]), Port: int(l.buf[8])<<8 | int(l.buf[9])}) // its event tells
	t.fd[1], t.stage = fd, dials
	l.watch(t, fd, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP)
}

// take reads from one side, and passes on what comes.
func (t *tunnel) take(l *loop, side int) {
	for !t.closed {
		n, errno := call(unix.SYS_READ, t.fd[side], l.buf[:])
		switch {
		case errno == unix.EAGAIN:
			return
		case errno != 0:
			t.close(l)
		case n == 0:
			t.end(l, side)
			return
		default:
			t.send(l, 1-side, l.buf[:n])
			if n < len(l.buf) || len(t.rest[side]) > 0 {
				return
			}
		}
	}
}

// pass sends a side what waits for room in it.
func (t *tunnel) pass(l *loop, from int) {
	if rest := t.rest[from]; len(rest) > 0 {
		t.rest[from] = nil
		t.send(l, 1-from, rest)
		if len(t.rest[from]) == 0 && !t.closed {
			t.take(l, from)
		}
	}
}

func (t *tunnel) send(l *loop, side int, b []byte) {
	n, errno := call(unix.SYS_WRITE, t.fd[side], b)
	switch {
	case errno != 0 && errno != unix.EAGAIN:
		t.close(l)
	case n < len(b):
		t.rest[1-side] = append([]byte(nil), b[max(n, 0):]...)
		_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_MOD, t.fd[side], &unix.EpollEvent{
			Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff, Fd: int32(t.fd[side]),
		})
	}
}

// end passes on an end of stream; the second one closes the tunnel.
func (t *tunnel) end(l *loop, side int) {
	t.ended[side] = true
	if t.ended[1-side] {
		t.close(l)
		return
	}
	_ = unix.Shutdown(t.fd[1-side], unix.SHUT_WR)
}

func (t *tunnel) close(l *loop) {
	t.closed = true
	for _, fd := range t.fd {
		if fd >= 0 {
			l.tunnels[fd] = nil
			_ = unix.Close(fd)
		}
	}
}

// call is read(2) or write(2) of a socket that does not block. n is below 0 where
// it failed.
func call(number uintptr, fd int, b []byte) (n int, errno unix.Errno) {
	r, _, errno := unix.RawSyscall(number, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno != 0 {
		return -1, errno
	}
	return int(r), 0
}
