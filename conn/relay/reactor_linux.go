package relay

import (
	"context"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
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
	slots   []*session // by the number that the kernel holds for us
	free    []int32    // slots to use
	retired []int32    // slots whose events may still be in ready
}

// task is a relay whose pumps may have work.
type task struct {
	s       *session
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
			t.in, t.out, over = t.s.turn(t.in, t.out)
			switch {
			case over && (t.s.client.dead.Load() || t.s.server.dead.Load()):
				go t.s.finish() // it may wait for the one that is left
			case over:
				t.s.finish()
			case t.in|t.out != 0:
				r.again = append(r.again, t)
			}
			r.ready[i].s = nil
		}
	}
	return ctx.Err()
}

// lookAtAll gives each relay a turn.
func (r *Reactor) lookAtAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ready, r.again = r.ready[:0], r.again[:0]
	for _, s := range r.slots {
		if s != nil {
			r.again = append(r.again, task{s: s, in: readable | writable, out: readable | writable})
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
	// It returns at once, so it is raw, as in pump.read.
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, fd, uintptr(unsafe.Pointer(&r.events[0])), eventBatch, 0, 0, 0) //nolint:gosec // the kernel gets the array's own bounds
	if errno != 0 {                                                                                                       // EINTR
		return 0
	}
	for _, e := range r.events[:n] {
		s := r.slots[e.Fd]
		if s == nil {
			continue
		}
		var source, destination readiness // as which the end that e is about is ready
		const gone = unix.EPOLLHUP | unix.EPOLLERR
		if e.Events&(unix.EPOLLIN|unix.EPOLLRDHUP|gone) != 0 {
			source = readable
		}
		// The kernel says so with each arrival: it counts only for a pump
		// that waits for it.
		if e.Events&(unix.EPOLLOUT|gone) != 0 {
			destination = writable
		}
		if e.Events&gone != 0 {
			destination |= hungUp
		}
		t := task{s: s, in: source, out: destination}
		if e.Pad == serverSide {
			t.in, t.out = destination, source
		}
		r.ready = append(r.ready, t)
	}
	return int(n)
}

// The two sides of a relay, as the kernel holds them for us.
const (
	clientSide = 0
	serverSide = 1
)

// add has the relay's sockets watched, for these events. The caller holds
// s.pumps, so that no event is served before both are.
func (r *Reactor) add(s *session, client, server uint32) bool {
	r.mu.Lock()
	if last := len(r.free) - 1; last >= 0 {
		s.slot = r.free[last]
		r.free = r.free[:last]
	} else {
		s.slot = int32(len(r.slots))
		r.slots = append(r.slots, nil)
	}
	r.slots[s.slot] = s
	r.mu.Unlock()
	if r.watch(&s.client, unix.EPOLL_CTL_ADD, client, s.slot, clientSide) && r.watch(&s.server, unix.EPOLL_CTL_ADD, server, s.slot, serverSide) {
		return true
	}
	r.unwatch(&s.client)
	r.remove(s)
	return false
}

// remove forgets a relay whose sockets are closed or not watched.
func (r *Reactor) remove(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.slots[s.slot] = nil
	r.retired = append(r.retired, s.slot)
}

// arrivals are the events that a source is watched for. A destination is
// watched for room only after a write has found none: an earlier watch would
// have the kernel report at once that there is room, and wake the reactor for
// each new relay.
const arrivals = unix.EPOLLIN | unix.EPOLLRDHUP

// watch reports each change of the end's socket once, and its state now.
func (r *Reactor) watch(e *end, operation int, events uint32, slot, side int32) bool {
	event := unix.EpollEvent{Events: events | unix.EPOLLET&0xffffffff, Fd: slot, Pad: side}
	return r.change(e, operation, &event)
}

// watchPumps has the reactor report what its pumps wait for, the state now
// included, and nothing for a pump that is detached. It fails for want of
// memory alone. The caller holds s.pumps.
func (s *session) watchPumps() bool {
	events := func(from, to *pump) (mask uint32) {
		if !from.where.ridden() {
			mask = arrivals
		}
		if !to.where.ridden() && to.blocks {
			mask |= unix.EPOLLOUT
		}
		return mask
	}
	client, server := events(&s.in, &s.out), events(&s.out, &s.in)
	if !s.watched {
		s.in.initTurns()
		s.out.initTurns()
		s.watched = s.reactor.add(s, client, server)
		return s.watched
	}
	return s.reactor.watch(&s.client, unix.EPOLL_CTL_MOD, client, s.slot, clientSide) &&
		s.reactor.watch(&s.server, unix.EPOLL_CTL_MOD, server, s.slot, serverSide)
}

func (r *Reactor) unwatch(e *end) { r.change(e, unix.EPOLL_CTL_DEL, nil) }

func (r *Reactor) change(e *end, operation int, event *unix.EpollEvent) bool {
	var failed error
	err := e.raw.Control(func(fd uintptr) {
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

// chooseReactor gives the relay a reactor, if there is one and both ends can
// be watched.
func (s *session) chooseReactor() {
	p := s.o.Pools
	if p == nil || len(p.reactors.all) == 0 || s.client.raw == nil || s.server.raw == nil {
		return
	}
	next := p.reactors.next.Add(1)
	s.reactor = p.reactors.all[int(next)%len(p.reactors.all)]
}

// leave is for when both conns are closed.
func (s *session) leave() { s.reactor.remove(s) }
