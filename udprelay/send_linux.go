package udprelay

import (
	"encoding/binary"
	"errors"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// outMessages and outIovs bound what is queued before it must be sent.
	outMessages = 64
	outIovs     = 512
	// maxSegments is the kernel's UDP_MAX_SEGMENTS before 6.9.
	maxSegments = 64
	// staleTries is how often a message is tried again after an error that may
	// be an earlier one's: several may be on their way.
	staleTries = 4
	// firstGSO is the largest datagram that is sent by segmentation before a
	// socket has learnt better: a jumbo frame's.
	firstGSO = 8972
)

// message is one entry of sendmmsg: one datagram, or several of one size to
// one destination that the kernel is to cut apart (UDP_SEGMENT).
type message struct {
	iov, iovs int // where its pieces are
	perSeg    int // pieces of each datagram
	size      int // of each datagram, the last may be shorter
	total     int
	segs      int
	payload   int // bytes without headers
	closed    bool
}

// sendQueue collects datagrams and sends them with as few calls as possible.
// It refers to the bytes it is given until flush returns.
type sendQueue struct {
	hdrs  [outMessages]mmsghdr
	iovs  [outIovs]unix.Iovec
	names [outMessages]endpoint
	ctls  [outMessages]control
	msgs  [outMessages]message
	n     int // messages
	niov  int

	arena headerArena

	// The state of a flush.
	sock   *socket
	pos    int
	tries  int  // of the message at pos that brought back what may be an earlier one's error
	stale  bool // such an error came back during this flush
	result flushResult
	step   func(fd uintptr) bool // sendStep, bound once
}

// flushResult says what became of the queued datagrams.
type flushResult struct {
	sent, failed, tooBig int // datagrams
	bytes                int // payload sent
}

func (q *sendQueue) init() {
	q.step = q.sendStep
	for i := range q.hdrs {
		q.hdrs[i].hdr.Name = (*byte)(unsafe.Pointer(&q.names[i])) //nolint:gosec // the kernel takes pointers; the batch keeps what they point to
	}
}

// add queues head and payload as one datagram for to. False: the queue is
// full, flush it first.
func (q *sendQueue) add(s *socket, to *endpoint, head, payload []byte) bool {
	pieces := 1
	if len(head) > 0 {
		pieces = 2
	}
	if q.niov+pieces > outIovs {
		return false
	}
	size := len(head) + len(payload)
	if q.n > 0 {
		m := &q.msgs[q.n-1]
		if !m.closed && m.perSeg == pieces && size > 0 && size <= m.size && size <= int(s.gsoMax.Load()) &&
			m.segs < maxSegments && m.total+size <= maxDatagram4 && q.names[q.n-1] == *to {
			q.pieces(head, payload)
			m.iovs += pieces
			m.segs++
			m.total += size
			m.payload += len(payload)
			m.closed = size < m.size
			return true
		}
	}
	if q.n == outMessages {
		return false
	}
	q.names[q.n] = *to
	q.msgs[q.n] = message{
		iov: q.niov, iovs: pieces, perSeg: pieces, size: size, total: size, segs: 1, payload: len(payload),
		closed: size == 0,
	}
	q.n++
	q.pieces(head, payload)
	return true
}

func (q *sendQueue) pieces(head, payload []byte) {
	if len(head) > 0 {
		q.piece(head)
	}
	q.piece(payload)
}

func (q *sendQueue) piece(b []byte) {
	iov := &q.iovs[q.niov]
	iov.Base = unsafe.SliceData(b) //nolint:gosec // the kernel takes pointers; the batch keeps what they point to
	iov.SetLen(len(b))
	q.niov++
}

// empty reports whether nothing is queued.
func (q *sendQueue) empty() bool { return q.n == 0 }

// flush sends all that is queued through s and forgets it, waiting for room
// in the socket's buffer if it must. It ends early when s is closed.
func (q *sendQueue) flush(s *socket) flushResult {
	q.result = flushResult{}
	if q.n > 0 {
		for i := range q.n {
			q.prepare(i)
		}
		q.sock, q.pos, q.tries, q.stale = s, 0, 0, false
		if err := s.rc.Write(q.step); err != nil { // closed
			for ; q.pos < q.n; q.pos++ {
				q.result.failed += q.msgs[q.pos].segs
			}
		}
		q.sock = nil
		if q.stale {
			s.drainErrors()
		}
	}
	q.n, q.niov = 0, 0
	q.arena.reset()
	return q.result
}

func (q *sendQueue) prepare(i int) {
	m, h := &q.msgs[i], &q.hdrs[i].hdr
	h.Namelen = q.names[i].len()
	h.Iov = &q.iovs[m.iov]
	h.SetIovlen(m.iovs)
	h.Flags = 0
	if m.segs == 1 {
		h.Control = nil
		h.SetControllen(0)
		return
	}
	c := &q.ctls[i]
	c.hdr.Level, c.hdr.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	c.hdr.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(c.data[:], uint16(m.size))
	h.Control = (*byte)(unsafe.Pointer(c)) //nolint:gosec // the kernel takes pointers; the batch keeps what they point to
	h.SetControllen(unix.CmsgSpace(2))
}

// sendStep sends from pos on. False asks RawConn.Write to call again once the
// socket can be written to.
func (q *sendQueue) sendStep(fd uintptr) bool {
	for q.pos < q.n {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, fd,
			uintptr(unsafe.Pointer(&q.hdrs[q.pos])), uintptr(q.n-q.pos), unix.MSG_DONTWAIT, 0, 0) //nolint:gosec // the kernel takes pointers; the batch keeps what they point to
		if errno == 0 {
			for range int(n) {
				m := &q.msgs[q.pos]
				q.result.sent += m.segs
				q.result.bytes += m.payload
				q.pos++
			}
			q.tries = 0
			continue
		}
		switch m := &q.msgs[q.pos]; {
		case errno == unix.EAGAIN:
			return false
		case errno == unix.EINTR:
			continue
		case q.tries < staleTries && transient(errno):
			// Perhaps an ICMP error of an earlier datagram, reported late: then
			// the call sent nothing and cleared it.
			q.tries++
			q.stale = true
			continue
		case m.segs > 1:
			q.sock.degrade(errno, m.size)
			q.sendApart(fd, m)
		default:
			q.fail(errno)
		}
		q.pos++
		q.tries = 0
	}
	return true
}

func (q *sendQueue) fail(errno syscall.Errno) {
	if errno == unix.EMSGSIZE {
		q.result.tooBig++
	} else {
		q.result.failed++
	}
}

// sendApart sends a message's datagrams one by one: the path would not take
// them segmented (too large for its MTU, or no checksum offload).
func (q *sendQueue) sendApart(fd uintptr, m *message) {
	h := q.hdrs[q.pos].hdr
	h.Control = nil
	h.SetControllen(0)
	h.SetIovlen(m.perSeg)
	for i := range m.segs {
		h.Iov = &q.iovs[m.iov+i*m.perSeg]
		_, _, errno := syscall.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&h)), unix.MSG_DONTWAIT) //nolint:gosec // the kernel takes pointers; the batch keeps what they point to
		if errno != 0 {
			q.stale = q.stale || transient(errno)
			q.fail(errno)
			continue
		}
		q.result.sent++
		q.result.bytes += int(q.iovs[m.iov+(i+1)*m.perSeg-1].Len)
	}
}

// gsoLimit is the largest datagram that a socket sends segmented.
type gsoLimit struct{ atomic.Int32 }

// degrade learns from a refused segmented send: less next time, or none.
func (s *socket) degrade(errno syscall.Errno, size int) {
	switch errno {
	case unix.EINVAL, unix.EMSGSIZE:
		s.gsoMax.Store(int32(size - 1)) // longer than the path's MTU
	case unix.EIO, unix.ENOPROTOOPT, unix.EOPNOTSUPP:
		s.gsoMax.Store(0)
	default: // about this destination, not about segmenting
	}
}

// sendOne sends a single datagram, outside of any batch.
func (s *socket) sendOne(to *endpoint, head, payload []byte) error {
	if len(head) > 0 {
		payload = append(head, payload...)
	}
	at := to.addrPort()
	_, err := s.conn.WriteToUDPAddrPort(payload, at)
	if errno, ok := errors.AsType[syscall.Errno](err); ok && transient(errno) {
		s.drainErrors() // perhaps an earlier one's
		_, err = s.conn.WriteToUDPAddrPort(payload, at)
	}
	return err
}
