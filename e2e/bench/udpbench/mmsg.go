package udpbench

import (
	"errors"
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchSize is how many datagrams a call moves.
const batchSize = 32

// mmsg reads and writes a connected socket in batches, at as little cost as
// the kernel allows: on a small machine, what client and echo take is not
// there for the proxy, and hides the differences between proxies.
type mmsg struct {
	rc   syscall.RawConn
	bufs [batchSize][]byte
	iovs [batchSize]unix.Iovec
	hdrs [batchSize]struct {
		unix.Msghdr
		n uint32
	}

	at, n int // what is to be sent; what was received
	errno syscall.Errno
	recv  func(uintptr) bool
	send  func(uintptr) bool
}

// newMmsg makes room for datagrams of size bytes. With segments above 1 the
// kernel cuts what is sent into datagrams of size bytes and joins what is
// received (UDP_SEGMENT, UDP_GRO), up to that many.
func newMmsg(conn *net.UDPConn, size, segments int) (*mmsg, error) {
	rc, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	if segments > 1 {
		if err := offload(rc, size); err != nil {
			return nil, err
		}
		size = min(size*segments, 1<<16)
	}
	m := &mmsg{rc: rc}
	m.recv, m.send = m.recvStep, m.sendStep
	for i := range batchSize {
		m.bufs[i] = make([]byte, size)
		m.iovs[i].Base = &m.bufs[i][0]
		m.hdrs[i].Iov = &m.iovs[i]
		m.hdrs[i].SetIovlen(1)
	}
	return m, nil
}

// read waits for datagrams and takes what is there, up to a batch: slot i
// has hdrs[i].n bytes.
func (m *mmsg) read() (int, error) {
	for i := range m.iovs {
		m.iovs[i].SetLen(len(m.bufs[i]))
	}
	if err := m.rc.Read(m.recv); err != nil {
		return 0, err
	}
	if m.errno != 0 {
		return 0, m.errno
	}
	return m.n, nil
}

func (m *mmsg) recvStep(fd uintptr) bool {
	n, _, errno := syscall.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&m.hdrs[0])), batchSize, unix.MSG_DONTWAIT, 0, 0)
	m.n, m.errno = int(n), errno
	return errno != unix.EAGAIN
}

// writeBack sends what the first n slots received.
func (m *mmsg) writeBack(n int) error {
	for i := range n {
		m.iovs[i].SetLen(int(m.hdrs[i].n))
	}
	return m.flush(n)
}

func (m *mmsg) flush(slots int) error {
	m.at, m.n, m.errno = 0, slots, 0
	if err := m.rc.Write(m.send); err != nil {
		return err
	}
	if m.errno != 0 {
		return m.errno
	}
	return nil
}

// writeMany sends n datagrams of size bytes, up to segments in each slot.
func (m *mmsg) writeMany(n, size, segments int) error {
	for n > 0 {
		slots := 0
		for ; slots < batchSize && n > 0; slots++ {
			k := min(n, segments)
			m.iovs[slots].SetLen(k * size)
			n -= k
		}
		if err := m.flush(slots); err != nil {
			return err
		}
	}
	return nil
}

// datagrams is how many of size bytes the first n slots received.
func (m *mmsg) datagrams(n, size int) int {
	total := 0
	for i := range n {
		total += (int(m.hdrs[i].n) + size - 1) / size
	}
	return total
}

func (m *mmsg) sendStep(fd uintptr) bool {
	for m.at < m.n {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&m.hdrs[m.at])), uintptr(m.n-m.at), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			m.at += int(n)
		case unix.EAGAIN:
			return false
		default:
			m.errno = errno
			return true
		}
	}
	return true
}

// offload turns on what NICs do for QUIC: several datagrams at once.
func offload(rc syscall.RawConn, size int) error {
	var failed error
	err := rc.Control(func(fd uintptr) {
		failed = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size),
			unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 1))
	})
	return errors.Join(err, failed)
}

// connect fixes the peer of a socket, which spares a route per datagram.
func connect(conn *net.UDPConn, to *net.UDPAddr) error {
	rc, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	sa := &unix.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}
	var failed error
	if err := rc.Control(func(fd uintptr) { failed = unix.Connect(int(fd), sa) }); err != nil {
		return err
	}
	return failed
}
