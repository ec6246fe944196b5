package relay

import (
	"io"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// smallChunks is how many chunks in a row below the buffer's size switch from
// splice back to read and write, which cost less for small messages.
const smallChunks = 4

// pipeRetry is how many full reads go by before a pipe is asked for again,
// after there was none.
const pipeRetry = 64

// initReadiness finds out whether the conn is a stream socket.
func (e *end) initReadiness() {
	switch c := e.conn.(type) {
	case *net.TCPConn:
		e.raw, _ = c.SyscallConn() // fails on a nil conn alone
	case *net.UnixConn:
		if c.LocalAddr().Network() == "unix" {
			e.raw, _ = c.SyscallConn()
		}
	}
}

// initSockets readies the pump for what its two ends can do.
func (p *pump) initSockets() {
	p.canSplice = p.src().isSocket() && p.dst().isSocket() && p.t.o.Engine != EngineCopy
	p.large = p.canSplice && p.t.o.Engine == EngineSplice
}

// tryFrom has takeFrom try the source.
func (p *pump) tryFrom() error {
	src := p.src()
	if src.isBare() {
		p.takeFrom(uintptr(src.fd))
		return nil
	}
	if src.take == nil {
		src.take = p.takeFrom
	}
	return src.raw.Control(src.take)
}

// tryTo has giveTo try the destination.
func (p *pump) tryTo() error {
	dst := p.dst()
	if dst.isBare() {
		p.giveTo(uintptr(dst.fd))
		return nil
	}
	if dst.give == nil {
		dst.give = p.giveTo
	}
	return dst.raw.Control(dst.give)
}

// takeFrom reads one chunk from the source's socket, or gives back everything
// that is in hand. A short read is no sign that the socket is dry: the poller
// reports an end of stream once, and never again.
//
// Its system calls do not block, so they are raw: telling the scheduler costs
// up to 45 % more CPU at small chunks.
func (p *pump) takeFrom(fd uintptr) {
	p.result, p.err = p.book(fd)
	if p.result == wantsBytes {
		p.abandon()
	}
	if p.result != moved {
		return
	}
	n, errno := p.fill(fd)
	for errno == unix.EINTR {
		n, errno = p.fill(fd)
	}
	p.returnGrant(n)
	switch {
	case errno == unix.EAGAIN:
		p.abandon()
		p.result = wantsBytes
	case errno != 0:
		p.result, p.err = sourceOver, errno
	case n == 0:
		p.result, p.err = sourceOver, io.EOF
	default:
		p.off, p.left = 0, int32(n)
	}
}

// fill takes a chunk by splice or by read, and learns which is right for the
// next one.
func (p *pump) fill(fd uintptr) (int, unix.Errno) {
	if room := p.spliceRoom(); p.large && p.limit(room) >= p.t.o.BufferSize && p.takePipe() {
		p.brief = false
		n, errno := splice(fd, p.pipe.w, p.limit(min(p.pipe.size, room)))
		if errno == unix.EAGAIN && !urgent(fd) || errno != 0 && errno != unix.EAGAIN && errno != unix.EINVAL || n > 0 {
			p.pipe.filled = n
			p.sized(n)
			return n, errno
		}
		if errno == unix.EINVAL { // this kind of socket cannot be spliced
			p.canSplice, p.large = false, false
			p.dropPipe()
		}
		// An end of stream, or an urgent byte, which splice stops at for ever: a
		// read tells, and passes it.
	}
	p.dropPipe()
	b := p.takeBuffer()
	room := p.limit(len(b))
	n, errno := rawIO(unix.SYS_READ, fd, b[:room])
	p.brief = n < room
	if n == len(b) && p.canSplice {
		p.large = p.unpiped == 0
		p.unpiped -= min(p.unpiped, 1)
	}
	return n, errno
}

// tookAll says of a pump that has read whether its source had no more, so that the
// next event tells of more. Only of TCP: a read of a unix socket may stop anywhere.
func (p *pump) tookAll() bool { return p.brief && p.src().isTCP }

// sized switches back from splice after some small chunks in a row.
func (p *pump) sized(n int) {
	if n >= p.t.o.BufferSize || p.t.o.Engine == EngineSplice {
		p.small = 0
		return
	}
	if n == 0 {
		return
	}
	if p.small++; p.small == smallChunks {
		p.small, p.large = 0, false
	}
}

// takePipe makes sure that there is an empty pipe in hand and no buffer. With
// no pipe to be had, the direction goes on by copying for a while.
func (p *pump) takePipe() bool {
	p.dropBuffer()
	if p.pipe == nil {
		p.pipe = p.t.o.Pools.takePipe()
	}
	if p.pipe == nil {
		p.large, p.unpiped = false, pipeRetry
	}
	return p.pipe != nil
}

// giveTo writes the chunk in hand to the destination's socket, as far as that
// has room.
func (p *pump) giveTo(fd uintptr) {
	for p.left > 0 {
		n, errno := p.drain(fd)
		switch errno {
		case 0:
			p.delivered(n)
		case unix.EINTR:
		case unix.EAGAIN:
			p.result = wantsRoom
			if p.err = p.pipeStuck(); p.err != nil {
				p.result = destinationOver
			}
			return
		default:
			p.result, p.err = destinationOver, errno
			return
		}
	}
	p.pipeMoves()
	if !p.large {
		p.dropPipe()
	}
	p.result = moved
}

// drain writes some of the chunk in hand.
func (p *pump) drain(fd uintptr) (int, unix.Errno) {
	if p.pipe == nil || p.pipe.filled == 0 {
		return rawIO(unix.SYS_WRITE, fd, p.chunk())
	}
	n, errno := splice(p.pipe.r, fd, int(p.left))
	p.pipe.filled -= n
	return n, errno
}

// rawIO is read(2) or write(2) of a non-empty b.
func rawIO(call, fd uintptr, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(call, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b))) //nolint:gosec // the kernel gets b's own bounds
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

const errAgain = unix.EAGAIN

// peek says how many bytes wait in the socket, of one, and takes none.
func peek(fd uintptr) (int, unix.Errno) {
	var b [1]byte
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b[0])), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0) //nolint:gosec // the kernel gets b's own bounds
	return int(n), errno
}

// urgent says whether a socket that splice called dry has bytes all the same:
// splice does not pass an urgent byte.
func urgent(fd uintptr) bool {
	n, errno := peek(fd)
	return n > 0 && errno == 0
}

// readUrgentInPlace has the socket deliver urgent bytes (RFC 9293 §3.8.5) in
// their place among the others. Telnet's and FTP's interrupts depend on them,
// and by default a read drops them.
func (e *end) readUrgentInPlace() {
	e.control(func(fd int) { _ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) }) // fails on no TCP socket
}

// splice moves up to n bytes between a pipe and a socket.
func splice(from, to uintptr, n int) (int, unix.Errno) {
	const flags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK
	moved, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, from, 0, to, 0, uintptr(n), flags)
	if errno != 0 {
		return 0, errno
	}
	return int(moved), 0
}

// queued is the number of bytes that the peer has not acknowledged, 0 on a
// conn that is gone or is no TCP conn.
func (e *end) queued() int {
	n, gone := 0, false
	e.control(func(fd int) {
		gone = tcpClosed(fd)
		n, _ = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	})
	if gone {
		return 0
	}
	return n
}

// disconnected says whether both directions of a TCP conn are over.
func (e *end) disconnected() bool {
	closed := false
	e.control(func(fd int) { closed = tcpClosed(fd) })
	return closed
}

// failure is why a conn is disconnected. Behind an end of stream the kernel
// calls a reset EPIPE.
func (e *end) failure() error {
	errno := 0
	e.control(func(fd int) { errno, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR) })
	if errno == 0 || unix.Errno(errno) == unix.EPIPE {
		return unix.ECONNRESET
	}
	return unix.Errno(errno)
}

// awaitReset waits, behind the peer's end of stream, until it is reset, or
// until the read deadline: false.
func (e *end) awaitReset() bool {
	raw, err := e.tcp.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Read(func(fd uintptr) bool { return tcpClosed(int(fd)) })
	return err == nil && !e.finSent.Load()
}

// control runs f with the descriptor of a TCP socket, or of that which the conn
// runs over.
func (e *end) control(f func(fd int)) {
	if !e.isTCP {
		return
	}
	if e.isBare() {
		f(int(e.fd))
		return
	}
	raw, err := e.tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { f(int(fd)) }) // fails on a closed conn: f does not run
}

// tcpClosed says whether the socket is in the state CLOSED of RFC 9293 §3.3.2.
func tcpClosed(fd int) bool {
	const stateClosed = 7 // TCP_CLOSE
	var state uint8       // is the first field of struct tcp_info
	size := uint32(1)
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_INFO, uintptr(unsafe.Pointer(&state)), uintptr(unsafe.Pointer(&size)), 0) //nolint:gosec // the kernel gets their own bounds
	return errno == 0 && state == stateClosed
}
