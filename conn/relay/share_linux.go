package relay

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Pipes are shared fairly: at most half of them may be stuck, full of bytes
// that a destination does not take. A pipe beyond that is given back, and its
// bytes wait in memory. So that these are few, a pump then splices no more than
// its destination has room for.

// mayStick is how many pipes may be stuck at a time.
func (p *Pools) mayStick() int32 { return int32(max(p.o.Pipes/2, 1)) }

// pipeStuck is for a pump whose destination has no room.
func (p *pump) pipeStuck() error {
	pools := p.t.o.Pools
	if pools == nil || p.pipe == nil || p.pipe.stuck || p.pipe.filled == 0 {
		return nil
	}
	p.pipe.stuck = true
	if pools.pipes.stuck.Add(1) <= pools.mayStick() {
		return nil
	}
	err := p.emptyPipe()
	if err == nil {
		p.dropPipe()
	}
	return err
}

// pipeMoves is for a pump whose pipe is empty, or given back.
func (p *pump) pipeMoves() {
	if p.pipe != nil && p.pipe.stuck {
		p.pipe.stuck = false
		p.t.o.Pools.pipes.stuck.Add(-1)
	}
}

// emptyPipe reads what is in the pipe into memory of that size, at most
// pipeSize.
func (p *pump) emptyPipe() error {
	b := make([]byte, p.pipe.filled)
	for off := 0; off < len(b); {
		n, errno := rawIO(unix.SYS_READ, p.pipe.r, b[off:])
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 || n == 0 {
			return unix.EIO // a pipe has lost bytes: cannot be
		}
		off += n
		p.pipe.filled -= n
	}
	p.buf, p.off = b, 0
	return nil
}

// spliceRoom is how much the pump may splice at a time.
func (p *pump) spliceRoom() int {
	pools := p.t.o.Pools
	if !p.large || pools == nil || pools.pipes.stuck.Load() < pools.mayStick() {
		return pipeSize
	}
	room := 0
	_ = p.dst().withFD(func(fd uintptr) { room = sendRoom(fd) }) // a closed conn has none
	return room
}

// sendRoom is how many bytes a socket takes without having to wait, about.
func sendRoom(fd uintptr) int {
	const (
		sent   = 2 // SK_MEMINFO_WMEM_ALLOC
		most   = 3 // SK_MEMINFO_SNDBUF
		queued = 5 // SK_MEMINFO_WMEM_QUEUED
	)
	var info [9]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0) //nolint:gosec // the kernel gets info's own bounds
	if errno != 0 {
		return 0
	}
	return max(int(info[most])-int(max(info[sent], info[queued])), 0)
}
