package relay

import (
	"encoding/binary"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Guest is what a reactor serves besides its relays: something with sockets that
// never waits, such as a handshake that becomes a relay.
type Guest interface {
	// Turn tells what the kernel reports of one of the guest's sockets, the flags
	// of epoll_ctl(2), once for each change. With SideUnknown something may have
	// been missed, and the guest looks for itself; without events, somebody rings.
	// A guest that has left may be told once more. It runs on the reactor's
	// goroutine, where others wait, and contains its own panics.
	Turn(side Side, events uint32)
}

// Seat is a guest's place at a reactor.
type Seat struct {
	reactor *Reactor
	slot    int32
}

// Seat takes a place for a guest. Any goroutine may ask for it.
func (r *Reactor) Seat(g Guest) Seat { return Seat{reactor: r, slot: r.take(g)} }

// Events that a guest has its sockets watched for.
const (
	Arrivals = arrivals                      // bytes, urgent ones, and the end of a stream
	Dialing  = arrivals | unix.EPOLLOUT      // and that a connection is made
	hangUps  = unix.EPOLLHUP | unix.EPOLLERR // are reported in any case
)

// Watch has the kernel report each change of a socket once, and its state now.
func (s Seat) Watch(fd int, side Side, events uint32) error {
	return s.control(fd, unix.EPOLL_CTL_ADD, unix.EpollEvent{Events: events | unix.EPOLLET&0xffffffff, Fd: s.slot, Pad: int32(side)})
}

// WatchWhile has the kernel report bytes, or connections to accept, as long as
// there are any.
func (s Seat) WatchWhile(fd int, side Side) error {
	return s.control(fd, unix.EPOLL_CTL_ADD, unix.EpollEvent{Events: unix.EPOLLIN, Fd: s.slot, Pad: int32(side)})
}

// Unwatch ends that for a socket which stays open.
func (s Seat) Unwatch(fd int) error { return s.control(fd, unix.EPOLL_CTL_DEL, unix.EpollEvent{}) }

func (s Seat) control(fd, operation int, event unix.EpollEvent) error {
	// What the guest's events need has been written by now, and the reactor, which
	// takes the lock for each of them, sees it.
	s.reactor.mu.Lock()
	defer s.reactor.mu.Unlock()
	if s.reactor.closed {
		return os.ErrClosed
	}
	// It is raw, and its event stays on the stack: it does not block.
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(s.reactor.epoll), uintptr(operation), uintptr(fd), uintptr(unsafe.Pointer(&event)), 0, 0) //nolint:gosec // the kernel gets the event's own bounds
	if errno != 0 {
		return os.NewSyscallError("epoll_ctl", errno)
	}
	return nil
}

// Ring has the guest's turn come, without events. Any goroutine may ring. Whoever
// has the place by then hears of it.
func (s Seat) Ring() {
	r := s.reactor
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rung = append(r.rung, s.slot)
	if len(r.rung) == 1 && !r.closed {
		r.ringLocked()
	}
}

// Relay has a guest's two TCP sockets, which are watched as ClientSide for Arrivals
// and as ServerSide for Dialing, be a tunnel as Start makes it. The guest's place
// is the tunnel's from now on. in and out say that the client and the server may
// have sent something that no event will tell of. The reactor calls done, but not
// before this has returned. It is for the guest's turn.
func (s Seat) Relay(client, server int, in, out bool, o Options, done func(Result)) *Tunnel {
	t := &Tunnel{done: done, reactor: s.reactor, slot: s.slot}
	t.client.initBare(client, Arrivals)
	t.server.initBare(server, Dialing)
	t.init(o)
	t.mu.Lock()
	t.startIdleChecks()
	t.mu.Unlock()
	first := task{slot: s.slot}
	if in {
		first.in = readable
	}
	if out {
		first.out = readable
	}
	r := s.reactor
	r.mu.Lock()
	r.slots[s.slot] = t
	r.mu.Unlock()
	if in || out {
		r.again = append(r.again, first)
	}
	return t
}

// Leave gives the place back. The guest's sockets are closed, or not watched.
func (s Seat) Leave() { s.reactor.remove(s.slot) }

// bellSlot is what the kernel holds for the bell.
const bellSlot = -1

// hangBell makes the reactor's bell, and has it watched.
func (r *Reactor) hangBell() (err error) {
	if r.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return err
	}
	if err = (Seat{reactor: r, slot: bellSlot}).WatchWhile(r.bell, SideUnknown); err != nil {
		_ = unix.Close(r.bell)
	}
	return err
}

// ringBell has Serve look up from its wait.
func (r *Reactor) ringBell() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.ringLocked()
	}
}

// ringLocked is ringBell for who holds the lock.
func (r *Reactor) ringLocked() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = rawIO(unix.SYS_WRITE, uintptr(r.bell), one[:]) // fails when the bell rings already
}

// answerBell has those that are rung for take their turns. The caller holds r.mu.
func (r *Reactor) answerBell() {
	var count [8]byte
	_, _ = rawIO(unix.SYS_READ, uintptr(r.bell), count[:]) // fails when another look has answered
	for _, slot := range r.rung {
		r.ready = append(r.ready, task{slot: slot, side: ClientSide})
	}
	r.rung = r.rung[:0]
}
