package relay

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"cleversocks/conn/cause"
)

// eventBatch is how many events one look at the sockets returns.
const eventBatch = 128

// Reactor is the service that waits for all sockets of some relays, and moves
// their bytes. Two waiting goroutines cost a relay 5 KiB, an entry here costs
// 300 bytes. It blocks a thread in epoll_wait: parked in Go's poller, as other
// waits are, each of its events would wake a thread for that poller first, and the
// runtime's monitor with it. Where it has no processor to spare it is parked all the
// same: see parking. It comes with Pools, which close it; whoever has those runs
// Serve.
type Reactor struct {
	name   string
	park   *parking // nil: a thread waits
	events [eventBatch]unix.EpollEvent
	ready  []task // this goroutine's: what the events are about
	again  []task // this goroutine's: what used up its turn

	mu      sync.Mutex
	epoll   int     // while it is not closed
	bell    int     // an eventfd: somebody rings, see Seat.Ring
	slots   []entry // by the number that the kernel holds for us; nil: it is free, or retired
	free    []int32 // slots to use
	retired []int32 // slots whose events may still be in ready
	rung    []int32 // slots of guests that somebody rings for
	serving bool    // Serve closes the descriptors, if anybody has to
	closed  bool    // nobody uses the descriptors any more but Serve
}

// entry is what has a slot: a *Tunnel or a Guest.
type entry any

// task is a slot whose entry may have work. Whoever has the slot when its turn
// comes gets it: a guest's relay, for one, gets what was meant for the guest.
type task struct {
	slot    int32
	side    Side
	events  uint32    // what the kernel reported of that side; 0: this is not about an event
	in, out readiness // of a tunnel that used up its turn
}

func newReactor(name string, parks bool) (*Reactor, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	r := &Reactor{name: name, epoll: fd}
	if parks {
		r.park, err = newParking(r)
	}
	if err == nil {
		err = r.hangBell()
	}
	if err != nil {
		r.closeEpoll()
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
	if !r.begin() {
		return os.ErrClosed
	}
	defer r.end()
	defer context.AfterFunc(ctx, r.ringBell)()
	r.lookAtAll()
	for ctx.Err() == nil {
		if !r.look() {
			return os.ErrClosed
		}
		// Those that had their turn come after those that had none.
		r.ready = append(r.ready, r.again...)
		r.again = r.again[:0]
		for i := range r.ready {
			r.serve(r.ready[i])
		}
	}
	return ctx.Err()
}

// begin keeps the descriptors open for Serve; false: they are closed.
func (r *Reactor) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.serving = !r.closed
	return r.serving
}

func (r *Reactor) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.serving = false
	if r.closed {
		r.closeDescriptors()
	}
}

// close ends the reactor's Serve, if it still runs.
func (r *Reactor) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.closed = true // or a guest that is late would use somebody else's descriptors
	if r.serving {
		r.ringLocked()
	} else {
		r.closeDescriptors()
	}
}

func (r *Reactor) closeDescriptors() {
	r.closeEpoll()
	_ = unix.Close(r.bell)
}

func (r *Reactor) closeEpoll() {
	if r.park != nil {
		_ = r.park.file.Close()
		return
	}
	_ = unix.Close(r.epoll)
}

// serve gives a slot's entry its turn.
func (r *Reactor) serve(t task) {
	r.mu.Lock()
	e := r.slots[t.slot]
	r.mu.Unlock()
	switch e := e.(type) {
	case *Tunnel:
		if t.events != 0 {
			t.in, t.out = readinessOf(t.events, t.side)
		}
		if t.in|t.out != 0 {
			r.serveTunnel(e, t)
		}
	case Guest:
		e.Turn(t.side, t.events)
	}
}

func (r *Reactor) serveTunnel(e *Tunnel, t task) {
	var over bool
	t.events = 0
	t.in, t.out, over = e.turn(t.in, t.out)
	switch {
	case over && (e.client.dead || e.server.dead):
		e.finishLater() // it may wait for the one that is left
	case over:
		e.finish()
	case t.in|t.out != 0:
		r.again = append(r.again, t)
	}
}

// lookAtAll gives each tunnel and guest a turn.
func (r *Reactor) lookAtAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ready, r.again = r.ready[:0], r.again[:0]
	for slot, e := range r.slots {
		if e != nil {
			r.again = append(r.again, task{slot: int32(slot), side: SideUnknown, in: readable | writable, out: readable | writable})
		}
	}
}

// look fills ready with what the kernel has. It waits for something unless there
// are tunnels that used up their turn. It is false when the reactor is closed.
func (r *Reactor) look() bool {
	n := r.wait(len(r.again) > 0)
	r.ready = r.ready[:0]
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events[:n] {
		if e.Fd == bellSlot {
			r.answerBell()
			continue
		}
		r.ready = append(r.ready, task{slot: e.Fd, side: Side(e.Pad), events: e.Events})
	}
	return !r.closed
}

// wait waits for events, and says how many there are.
func (r *Reactor) wait(atOnce bool) int {
	r.forgetRetired()
	if r.park != nil && !atOnce {
		if n, err := r.park.wait(); err == nil {
			return n
		} // else a thread has to
	}
	return r.epollWait(atOnce)
}

// epollWait is epoll_wait(2). What returns at once is raw, as in pump.takeFrom; of
// what may block the scheduler is told, or a collection would have to wait for it too.
func (r *Reactor) epollWait(atOnce bool) int {
	call, timeout := unix.Syscall6, -1
	if atOnce {
		call, timeout = unix.RawSyscall6, 0
	}
	n, _, errno := call(unix.SYS_EPOLL_PWAIT, uintptr(r.epoll), uintptr(unsafe.Pointer(&r.events[0])), eventBatch, uintptr(timeout), 0, 0) //nolint:gosec // the kernel gets the array's own bounds
	if errno != 0 {                                                                                                                        // EINTR
		return 0
	}
	return int(n)
}

// forgetRetired frees the slots of what has left. Their sockets are closed:
// nothing that comes now is about them.
func (r *Reactor) forgetRetired() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free = append(r.free, r.retired...)
	r.retired = r.retired[:0]
}

// readinessOf is what the events of one of a tunnel's sockets give its pumps to do.
func readinessOf(events uint32, side Side) (in, out readiness) {
	var source, destination readiness // of the socket, as each of the two
	const gone = unix.EPOLLHUP | unix.EPOLLERR
	if events&(arrivals|gone) != 0 {
		source = readable
	}
	if events&(arrivals|gone) == unix.EPOLLIN {
		source |= justBytes
	}
	if events&gone == 0 {
		source |= calm
	}
	// The kernel reports room together with each arrival. It counts only for
	// a pump that waits for it.
	if events&(unix.EPOLLOUT|gone) != 0 {
		destination = writable
	}
	if events&gone != 0 {
		destination |= hungUp
	}
	if side == ServerSide {
		return destination, source
	}
	return source, destination
}

// Side is one of the sockets of a slot's entry, as the kernel holds it for us.
type Side int32

// The two sides of a tunnel, and what a guest is told that is to look at its
// sockets by itself.
const (
	ClientSide  Side = 0
	ServerSide  Side = 1
	SideUnknown Side = -1
)

// arrivals are the events that a source is watched for: of urgent bytes too, since a
// read stops at them.
const arrivals = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLRDHUP

// take gives an entry a slot.
func (r *Reactor) take(e entry) (slot int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last := len(r.free) - 1; last >= 0 {
		slot = r.free[last]
		r.free = r.free[:last]
		r.slots[slot] = e
		return slot
	}
	r.slots = append(r.slots, e)
	return int32(len(r.slots) - 1)
}

// add has the tunnel's sockets watched. The caller holds t.mu, so no event is
// served before both are.
func (r *Reactor) add(t *Tunnel) bool {
	t.slot = r.take(t)
	if r.watch(&t.client, unix.EPOLL_CTL_ADD, arrivals, t.slot, ClientSide) && r.watch(&t.server, unix.EPOLL_CTL_ADD, arrivals, t.slot, ServerSide) {
		return true
	}
	r.change(&t.client, unix.EPOLL_CTL_DEL, nil)
	r.remove(t.slot)
	return false
}

// remove forgets an entry whose sockets are closed or not watched.
func (r *Reactor) remove(slot int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.slots[slot] = nil
	r.retired = append(r.retired, slot)
}

// watch has the kernel report each change of the end's socket once, and its
// state now.
func (r *Reactor) watch(e *end, operation int, events uint32, slot int32, side Side) bool {
	event := unix.EpollEvent{Events: events | unix.EPOLLET&0xffffffff, Fd: slot, Pad: int32(side)}
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
	if t.watchAs(&t.client, &t.in, &t.out, ClientSide) && t.watchAs(&t.server, &t.out, &t.in, ServerSide) {
		return
	}
	t.lostReactor()
}

// lostReactor ends a tunnel with a socket that is not watched, for want of
// memory: nobody would tell what happens to it. The caller holds t.mu.
func (t *Tunnel) lostReactor() {
	t.note(&verdict{rank: rankFinal, cause: cause.Error, err: errWatch, abort: true})
	t.halt()
}

var errWatch = errors.New("relay lost its reactor")

// watchAs has an end watched for the pump that reads from it and the one that
// writes to it.
func (t *Tunnel) watchAs(e *end, reader, writer *pump, side Side) bool {
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
	failed := os.ErrClosed
	err := e.withFD(func(fd uintptr) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if !r.closed {
			failed = unix.EpollCtl(r.epoll, operation, int(fd), event)
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
	parks := runtime.GOMAXPROCS(0) <= n
	for i := range n {
		r, err := newReactor("relay reactor "+strconv.Itoa(i+1), parks)
		if err != nil {
			return
		}
		p.reactors.all = append(p.reactors.all, r)
	}
}

// closeReactors ends their Serve, if it still runs.
func (p *Pools) closeReactors() {
	for _, r := range p.reactors.all {
		r.close()
	}
}

// chooseReactor gives the tunnel a reactor, if there is one and both ends can
// be watched.
func (t *Tunnel) chooseReactor() {
	p := t.o.Pools
	if p == nil || len(p.reactors.all) == 0 || !t.client.isSocket() || !t.server.isSocket() {
		return
	}
	t.reactor = p.reactors.all[p.reactors.next.Add(1)%uint32(len(p.reactors.all))]
}

// leave is for when both conns are closed.
func (t *Tunnel) leave() { t.reactor.remove(t.slot) }
