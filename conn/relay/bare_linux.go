package relay

import (
	"net"
	"time"

	"golang.org/x/sys/unix"

	"cleversocks/conn/adopt"
)

// A conn of package net costs 600 bytes for its object and its state in Go's
// poller, and a registration there in the kernel, all for what a reactor does by
// itself. So the sockets of a tunnel that lasts go on as bare descriptors, and
// their conns are closed. A bulk transfer, whose goroutine waits in Go's poller,
// gets conns again as long as it lasts.

// bareAfter is the age at which a tunnel is one that lasts. Most are shorter:
// they save the system calls. Many that begin at once should not wait long: Go
// never gives the state in its poller back to the system.
const bareAfter = 250 * time.Millisecond

// initBare is for a TCP socket that is nobody else's.
func (e *end) initBare(fd int, watched uint32) {
	e.fd, e.isTCP, e.watched = int32(fd), true, watched
}

// isBare says whether a descriptor of our own is all that there is of the end.
func (e *end) isBare() bool { return e.dress == nil }

// withFD runs f with the descriptor of an end that is a socket.
func (e *end) withFD(f func(fd uintptr)) error {
	if e.isBare() {
		f(uintptr(e.fd))
		return nil
	}
	return e.raw.Control(f)
}

// close closes the end.
func (e *end) close() {
	if e.isBare() {
		_ = unix.Close(int(e.fd))
		return
	}
	_ = e.conn.Close()
}

func (e *end) shutBare() { _ = unix.Shutdown(int(e.fd), unix.SHUT_WR) } // fails on a peer that is gone already

func (e *end) resetBare() {
	_ = unix.SetsockoptLinger(int(e.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}) // a unix socket does not care
}

// strip makes a tunnel's ends bare, unless a goroutine moves one of its pumps.
// An end for which there is no descriptor now stays as it is. The caller holds
// t.mu.
func (t *Tunnel) strip() {
	if t.reactor == nil || t.closing || t.in.place.hasGoroutine() || t.out.place.hasGoroutine() {
		return
	}
	if !t.stripEnd(&t.client, ClientSide) || !t.stripEnd(&t.server, ServerSide) {
		t.lostReactor()
	}
}

// stripEnd says whether the end is still watched.
func (t *Tunnel) stripEnd(e *end, side Side) bool {
	if e.isBare() {
		return true
	}
	var fd int
	var err error
	if lost := e.withFD(func(old uintptr) { fd, err = adopt.Duplicate(int(old)) }); lost != nil || err != nil {
		return true
	}
	t.reactor.change(e, unix.EPOLL_CTL_DEL, nil) // closing it would not do that: the socket stays open
	conn := e.conn
	e.dress, e.fd = nil, int32(fd)
	_ = conn.Close()
	return t.reactor.watch(e, unix.EPOLL_CTL_ADD, e.watched, t.slot, side)
}

// dress gives a tunnel's bare ends conns again. It says whether both have one
// now. The caller holds t.mu.
func (t *Tunnel) dress() bool {
	return t.dressEnd(&t.client, ClientSide) && t.dressEnd(&t.server, ServerSide)
}

func (t *Tunnel) dressEnd(e *end, side Side) bool {
	if !e.isBare() {
		return true
	}
	conn := connOf(int(e.fd))
	if conn == nil {
		return false
	}
	t.reactor.change(e, unix.EPOLL_CTL_DEL, nil)
	_ = unix.Close(int(e.fd))
	e.dress, e.fd = &dress{conn: conn}, -1
	e.tcp, _ = conn.(*net.TCPConn)
	e.initReadiness()
	if t.reactor.watch(e, unix.EPOLL_CTL_ADD, e.watched, t.slot, side) {
		return true
	}
	t.lostReactor()
	return false
}

// connOf is a conn for a socket, with a descriptor of its own; nil: there is
// none to be had.
func connOf(fd int) net.Conn {
	other, err := adopt.Duplicate(fd)
	if err != nil {
		return nil
	}
	conn, err := adopt.Conn(other, adopt.Of(fd))
	if err != nil {
		return nil
	}
	return conn
}
