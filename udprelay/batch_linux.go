package udprelay

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// endpoint is an address in the kernel's form, so that the datagram path
// converts none. An IPv4 address sits where sockaddr_in has it, in Flowinfo,
// and the rest is zero: endpoints compare with ==.
type endpoint unix.RawSockaddrInet6

// endpointOf is ap for the kernel. Zones are dropped: a destination has none.
func endpointOf(ap netip.AddrPort) endpoint {
	e := endpoint{Port: networkOrder(ap.Port())}
	if addr := ap.Addr().Unmap(); addr.Is4() {
		e.Family = unix.AF_INET
		b := addr.As4()
		e.Flowinfo = binary.NativeEndian.Uint32(b[:])
	} else {
		e.Family = unix.AF_INET6
		e.Addr = addr.As16()
	}
	return e
}

// addrPort is e, unmapped and without a zone.
func (e *endpoint) addrPort() netip.AddrPort {
	if e.Family == unix.AF_INET {
		var b [4]byte
		binary.NativeEndian.PutUint32(b[:], e.Flowinfo)
		return netip.AddrPortFrom(netip.AddrFrom4(b), networkOrder(e.Port))
	}
	return netip.AddrPortFrom(netip.AddrFrom16(e.Addr).Unmap(), networkOrder(e.Port))
}

func networkOrder(v uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], v)
	return binary.BigEndian.Uint16(b[:])
}

func (e *endpoint) len() uint32 {
	if e.Family == unix.AF_INET {
		return unix.SizeofSockaddrInet4
	}
	return unix.SizeofSockaddrInet6
}

// control is room for one control message with an int in it (UDP_GRO) or a
// uint16 (UDP_SEGMENT), aligned as a cmsghdr must be.
type control struct {
	hdr  unix.Cmsghdr
	data [8]byte
}

// batch is what one turn of a pump works with: the datagrams it received and
// those it is about to send. It is large, so pumps take one from the pool
// when there is something to read and give it back before they wait.
type batch struct {
	buf   []byte // slots of slotSize
	hdrs  [slots]mmsghdr
	iovs  [slots]unix.Iovec
	names [slots]endpoint
	ctls  [slots]control

	out sendQueue
}

func newBatch() *batch {
	b := &batch{buf: make([]byte, slots*slotSize)}
	for i := range slots {
		b.iovs[i].Base = &b.buf[i*slotSize]
		b.iovs[i].SetLen(slotSize)
		h := &b.hdrs[i].hdr
		h.Iov = &b.iovs[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&b.names[i]))   //nolint:gosec // the kernel takes pointers; the batch keeps what they point to
		h.Control = (*byte)(unsafe.Pointer(&b.ctls[i])) //nolint:gosec // the kernel takes pointers; the batch keeps what they point to
	}
	b.out.init()
	return b
}

// receive takes what waits on fd, up to all slots, without blocking. The
// calls are raw: they never block, and telling the scheduler about each costs
// more than it gains.
func (b *batch) receive(fd uintptr) (int, syscall.Errno) {
	for i := range b.hdrs {
		h := &b.hdrs[i].hdr
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(int(unsafe.Sizeof(control{})))
		h.Flags = 0
	}
	n, _, errno := syscall.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.hdrs[0])), slots, unix.MSG_DONTWAIT, 0, 0) //nolint:gosec // the kernel takes pointers; the batch keeps what they point to
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// datagram is what arrived in slot i: the sender, the bytes, and the size of
// the datagrams in them. The kernel may have joined several of one sender
// (UDP_GRO): all are of that size, the last may be shorter.
func (b *batch) datagram(i int) (from endpoint, data []byte, size int) {
	h := &b.hdrs[i]
	from = b.names[i]
	if from.Family == unix.AF_INET {
		from = endpoint{Family: from.Family, Port: from.Port, Flowinfo: from.Flowinfo}
	}
	data = b.buf[i*slotSize:][:h.len:h.len]
	size = len(data)
	c := &b.ctls[i]
	if h.hdr.Controllen > 0 && c.hdr.Level == unix.SOL_UDP && c.hdr.Type == unix.UDP_GRO {
		if seg := int(binary.NativeEndian.Uint32(c.data[:])); seg > 0 && seg < size {
			size = seg
		}
	}
	return from, data, size
}

// enableGRO asks for joined datagrams; an old kernel refuses and nothing is lost.
func enableGRO(rc syscall.RawConn) {
	_ = rc.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 1)
	})
}
