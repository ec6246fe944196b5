package conn

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"cleversocks/conn/adopt"
	"cleversocks/conn/relay"
	"cleversocks/conn/reset"
)

// acceptor has a reactor accept what comes to a listening socket.
type acceptor struct {
	g        *Group
	seat     relay.Seat
	fd       int // a descriptor of its own for the socket
	listener string
	count    func(refused string)
	shared   bool // another program has the socket too
	inPlace  bool // what is accepted inherits that urgent bytes come in their place

	// from and size are where the kernel writes a client's address.
	from unix.RawSockaddrAny
	size uint32

	mu     sync.Mutex
	over   bool
	failed chan error // 1
}

// acceptBurst is how many connections are accepted in one turn.
const acceptBurst = 1

// AcceptFrom has the connections of a listener's socket accepted and served on
// reactors, without a goroutine for any of them, until ctx ends, closed is closed,
// or accepting fails. leave gives it a descriptor of the socket, which another
// program may share. count is called for each, with the reason if it is refused, and
// then it is reset. The error is errors.ErrUnsupported when the caller has to accept
// by itself, for now at least: what the listener's connections meet takes tasks, or
// there are no reactors.
func (g *Group) AcceptFrom(ctx context.Context, closed <-chan struct{}, leave func() (fd int, shared bool, err error), listener string, count func(refused string)) error {
	policy := g.Policy()
	if policy == nil {
		return errors.ErrUnsupported
	}
	lanes, ok := g.lanesOf(policy, listener)
	if !ok {
		return errors.ErrUnsupported
	}
	a := &acceptor{g: g, listener: listener, count: count, failed: make(chan error, 1)}
	if err := a.watch(g.nextOf(lanes), leave); err != nil {
		return errors.Join(errors.ErrUnsupported, err)
	}
	defer a.end()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-closed:
		return net.ErrClosed
	case err := <-a.failed:
		return err
	}
}

// lanesOf are what serves a listener's connections; false: tasks do.
func (g *Group) lanesOf(p *Policy, listener string) ([]*lane, bool) {
	l := p.listener(listener)
	if p.Relay.Pools == nil || !l.onReactor() {
		return nil, false
	}
	reactors := p.Relay.Pools.Reactors()
	if len(reactors) == 0 {
		return nil, false
	}
	return g.lanes(reactors), true
}

// watch begins to accept.
func (a *acceptor) watch(l *lane, leave func() (fd int, shared bool, err error)) error {
	fd, shared, err := leave()
	if err != nil {
		return err
	}
	a.mu.Lock() // a reactor that begins gives everybody a turn
	defer a.mu.Unlock()
	a.fd, a.shared, a.seat = fd, shared, l.reactor.Seat(a)
	inPlace, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE)
	a.inPlace = inPlace != 0
	if err = a.seat.WatchWhile(fd, relay.ClientSide); err != nil {
		a.over = true // its turn may be about to come
		a.seat.Leave()
		_ = unix.Close(fd)
	}
	return err
}

// end stops accepting, and waits for a turn that is under way.
func (a *acceptor) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
	_ = a.seat.Unwatch(a.fd) // it is not watched any more if accepting has failed
	_ = unix.Close(a.fd)
	a.seat.Leave()
}

// Turn makes it a relay.Guest.
func (a *acceptor) Turn(relay.Side, uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for range acceptBurst {
		if a.over {
			return
		}
		switch fd, client, errno := a.accept(); errno {
		case 0:
			a.hand(fd, client)
		case unix.EAGAIN:
			return
		case unix.EINTR, unix.ECONNABORTED: // the client gave up
		default:
			a.stop(os.NewSyscallError("accept4", errno))
		}
	}
}

// stop has AcceptFrom return. Whoever waits in the queue would else be told of
// without end.
func (a *acceptor) stop(err error) {
	a.over = true
	_ = a.seat.Unwatch(a.fd)
	a.failed <- err
}

// accept is accept4(2). The client is unmapped.
func (a *acceptor) accept() (fd int, client netip.AddrPort, errno unix.Errno) {
	if a.shared {
		a.doNotWait()
	}
	a.size = unix.SizeofSockaddrAny
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(a.fd), uintptr(unsafe.Pointer(&a.from)), uintptr(unsafe.Pointer(&a.size)), //nolint:gosec // the kernel gets their own bounds
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, client, errno
	}
	if !a.inPlace { // a listening socket of Multipath TCP, as a systemd unit may have it, cannot say so
		_ = unix.SetsockoptInt(int(n), unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)
	}
	return int(n), addressOf(&a.from), 0
}

// doNotWait has accept4 return at once. All that have the socket share the flag, and
// systemd takes it away when it starts another service with it: if that one was
// faster, the reactor would wait for the next client, and with it every tunnel that it
// has and the collector of garbage.
func (a *acceptor) doNotWait() {
	flags, _, errno := unix.RawSyscall(unix.SYS_FCNTL, uintptr(a.fd), unix.F_GETFL, 0)
	if errno == 0 && flags&unix.O_NONBLOCK == 0 {
		_ = unix.SetNonblock(a.fd, true) // it works on what is a socket
	}
}

// hand gives a connection to a lane, or to a task where the settings have changed
// such that it takes one. One that a panic met is reset.
func (a *acceptor) hand(fd int, client netip.AddrPort) {
	taken := false
	defer func() {
		if p := recover(); p != nil {
			_ = a.g.handler.panics.Panicked(context.Background(), "conn", p)
		}
		if !taken {
			_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}) // it fails on a socket that is gone
			_ = unix.Close(fd)
		}
	}()
	policy := a.g.Policy()
	lanes, ok := a.g.lanesOf(policy, a.listener)
	if !ok {
		a.stop(errors.ErrUnsupported)
		taken = true // as a conn
		a.handToTask(fd, policy)
		return
	}
	lane := a.g.nextOf(lanes)
	reason := lane.admit(fd, client, a.listener, policy)
	taken = reason == ""
	a.count(reason)
}

func (a *acceptor) handToTask(fd int, p *Policy) {
	c, err := adopt.Conn(fd, p.Sockets)
	if err != nil {
		a.count("")
		return
	}
	if c.RemoteAddr() == nil { // it is reset by now, and would pass for a client without an address
		c.Close()
		a.count("")
		return
	}
	reason := a.g.Admit(c, a.listener)
	if reason != "" {
		reset.Close(c)
	}
	a.count(reason)
}
