package relay

import (
	"context"
	"errors"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"cleversocks/conn/cause"
)

// eventBatch is how many events one look at the sockets returns.
const eventBatch = 128

// Reactor is the service that waits for all sockets of some relays, and moves
// their bytes. Two waiting goroutines cost a relay 5 KiB, an entry here costs
// 300 bytes. Its epoll descriptor is itself parked in Go's poller, so no thread
// blocks for it. It comes with Pools, which close it; whoever has those runs
// Serve.
type Reactor struct {
	name   string
	file   *os.File
	raw    syscall.RawConn
	await  func(fd uintptr) bool // look, until there is something; made once, for it would be garbage at each event
	glance func(fd uintptr)      // look
	events [eventBatch]unix.EpollEvent
	ready  []task // this goroutine's: what the events are about
	again  []task // this goroutine's: what used up its turn

	mu      sync.Mutex
	slots   []*Tunnel // by the number that the kernel holds for us
	free    []int32   // slots to use
	retired []int32   // slots whose events may still be in ready
}

// task is a relay whose pumps may have work.
type task struct {
	tunnel  *Tunnel
	in, out readiness
}

func newReactor(name string) (*Reactor, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err = unix.SetNonblock(fd, true); err != nil { // os.File parks only such
		_ = unix.Close(fd)
		return nil, err
	}
	r := &Reactor{name: name, file: os.NewFile(uintptr(fd), "relay reactor")}
	r.await = func(fd uintptr) bool { return r.look(fd) > 0 }
	r.glance = func(fd uintptr) { r.look(fd) }
	if r.raw, err = r.file.SyscallConn(); err != nil {
		_ = r.file.Close()
		return nil, err
	}
	return r, nil
}

// String names the service.
func (r *Reactor) String() string { return r.name }

// Serve moves bytes until ctx ends, or the pools are closed. A panic in one
// relay ends that relay alone. After any other one Serve can be called again:
// it looks at each relay once, since what was reported of them may be lost.
func (r *Reactor) Serve(ctx context.Context) error {
	if err := r.file.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = r.file.SetReadDeadline(past()) }) // fails on a closed file, which ends Serve too
	defer stop()
	r.lookAtAll()
	for ctx.Err() == nil {
		var err error
		if len(r.again) == 0 {
			err = r.raw.Read(r.await)
		} else {
			err = r.raw.Control(r.glance)
		}
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			return err
		}
		// Those that had their turn come after those that had none.
		r.ready = append(r.ready, r.again...)
		r.again = r.again[:0]
		for i, t := range r.ready {
			var over bool
			t.in, t.out, over = t.tunnel.turn(t.in, t.out)
			switch {
			case over && (t.tunnel.client.dead || t.tunnel.server.dead):
				t.tunnel.finishLater() // it may wait for the one that is left
			case over:
				t.tunnel.finish()
			case t.in|t.out != 0:
				r.again = append(r.again, t)
			}
			r.ready[i].tunnel = nil
		}
	}
	return ctx.Err()
}

// lookAtAll gives each tunnel a turn.
func (r *Reactor) lookAtAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ready, r.again = r.ready[:0], r.again[:0]
	for _, t := range r.slots {
		if t != nil {
			r.again = append(r.again, task{tunnel: t, in: readable | writable, out: readable | writable})
		}
	}
}

// look fills ready with what the kernel has, and says how many events it was.
func (r *Reactor) look(fd uintptr) int {
	r.ready = r.ready[:0]
	r.mu.Lock()
	defer r.mu.Unlock()
	// Their sockets are closed: nothing that comes now is about them.
	r.free = append(r.free, r.retired...)
	r.retired = r.retired[:0]
	// It returns at once, so it is raw, as in pump.takeFrom.
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, fd, uintptr(unsafe.Pointer(&r.events[0])), eventBatch, 0, 0, 0) //nolint:gosec // the kernel gets the array's own bounds
	if errno != 0 {                                                                                                       // EINTR
		return 0
	}
	for _, e := range r.events[:n] {
		if t := r.slots[e.Fd]; t != nil {
			r.ready = append(r.ready, taskOf(t, e.Events, e.Pad))
		}
	}
	return int(n)
}

// taskOf is what the events of one of a tunnel's sockets give its pumps to do.
func taskOf(t *Tunnel, events uint32, side int32) task {
	var source, destination readiness // of the socket, as each of the two
	const gone = unix.EPOLLHUP | unix.EPOLLERR
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|gone) != 0 {
		source = readable
	}
	// The kernel reports room together with each arrival. It counts only for
	// a pump that waits for it.
	if events&(unix.EPOLLOUT|gone) != 0 {
		destination = writable
	}
	if events&gone != 0 {
		destination |= hungUp
	}
	if side == serverSide {
		return task{tunnel: t, in: destination, out: source}
	}
	return task{tunnel: t, in: source, out: destination}
}

// The two sides of a tunnel, as the kernel holds them for us.
const (
	clientSide = 0
	serverSide = 1
)

// arrivals are the events that a source is watched for.
const arrivals = unix.EPOLLIN | unix.EPOLLRDHUP

// add has the tunnel's sockets watched. The caller holds t.mu, so no event is
// served before both are.
func (r *Reactor) add(t *Tunnel) bool {
	r.mu.Lock()
	if last := len(r.free) - 1; last >= 0 {
		t.slot = r.free[last]
		r.free = r.free[:last]
	} else {
		t.slot = int32(len(r.slots))
		r.slots = append(r.slots, nil)
	}
	r.slots[t.slot] = t
	r.mu.Unlock()
	if r.watch(&t.client, unix.EPOLL_CTL_ADD, arrivals, t.slot, clientSide) && r.watch(&t.server, unix.EPOLL_CTL_ADD, arrivals, t.slot, serverSide) {
		return true
	}
	r.change(&t.client, unix.EPOLL_CTL_DEL, nil)
	r.remove(t)
	return false
}

// remove forgets a tunnel whose sockets are closed or not watched.
func (r *Reactor) remove(t *Tunnel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.slots[t.slot] = nil
	r.retired = append(r.retired, t.slot)
}

// watch has the kernel report each change of the end's socket once, and its
// state now.
func (r *Reactor) watch(e *end, operation int, events uint32, slot, side int32) bool {
	event := unix.EpollEvent{Events: events | unix.EPOLLET&0xffffffff, Fd: slot, Pad: side}
	e.watched = events
	return r.change(e, operation, &event)
}

// join gives the tunnel's pumps to its reactor. It fails for want of memory
// alone. The caller holds t.mu.
func (t *Tunnel) join() bool { return t.reactor.add(t) }

// watchForRoom has the reactor report room in a destination that had none.
// Until a write has found none it is not watched for: the kernel would report
// at once that there is room, and wake the reactor for each new tunnel. From
// then on it stays watched. The caller holds t.mu.
func (t *Tunnel) watchForRoom(e *end) {
	if e.watched&unix.EPOLLOUT == 0 {
		t.rewatch()
	}
}

// rewatch has the reactor report what its pumps wait for, the state now
// included, and nothing for a pump that has a goroutine. The caller holds t.mu.
func (t *Tunnel) rewatch() {
	if t.watchAs(&t.client, &t.in, &t.out, clientSide) && t.watchAs(&t.server, &t.out, &t.in, serverSide) {
		return
	}
	t.lostReactor()
}

// lostReactor ends a tunnel with a socket that is not watched, for want of
// memory: nobody would tell what happens to it. The caller holds t.mu.
func (t *Tunnel) lostReactor() {
	t.note(verdict{rank: rankFinal, cause: cause.Error, err: errWatch, abort: true})
	t.halt()
}

var errWatch = errors.New("relay lost its reactor")

// watchAs has an end watched for the pump that reads from it and the one that
// writes to it.
func (t *Tunnel) watchAs(e *end, reader, writer *pump, side int32) bool {
	var events uint32
	if !reader.place.hasGoroutine() {
		events = arrivals
	}
	if !writer.place.hasGoroutine() && (writer.left > 0 || e.watched&unix.EPOLLOUT != 0) {
		events |= unix.EPOLLOUT
	}
	return t.reactor.watch(e, unix.EPOLL_CTL_MOD, events, t.slot, side)
}

func (r *Reactor) change(e *end, operation int, event *unix.EpollEvent) bool {
	var failed error
	err := e.withFD(func(fd uintptr) {
		inner := r.raw.Control(func(epoll uintptr) {
			failed = unix.EpollCtl(int(epoll), operation, int(fd), event)
		})
		if inner != nil {
			failed = inner
		}
	})
	return err == nil && failed == nil
}

// reactorSet is the reactors of Pools. A relay stays with the one it got.
type reactorSet struct {
	all  []*Reactor
	next atomic.Uint32
}

// openReactors makes up to n of them; without any, relays use goroutines.
func (p *Pools) openReactors(n int) {
	for i := range n {
		r, err := newReactor("relay reactor " + strconv.Itoa(i+1))
		if err != nil {
			return
		}
		p.reactors.all = append(p.reactors.all, r)
	}
}

// closeReactors ends their Serve, if it still runs.
func (p *Pools) closeReactors() {
	for _, r := range p.reactors.all {
		_ = r.file.Close()
	}
}

// chooseReactor gives the tunnel a reactor, if there is one and both ends can
// be watched.
func (t *Tunnel) chooseReactor() {
	p := t.o.Pools
	if p == nil || len(p.reactors.all) == 0 || !t.client.isSocket() || !t.server.isSocket() {
		return
	}
	next := p.reactors.next.Add(1)
	t.reactor = p.reactors.all[int(next)%len(p.reactors.all)]
}

// leave is for when both conns are closed.
func (t *Tunnel) leave() { t.reactor.remove(t) }
