package conn

import (
	"context"
	"errors"
	"io"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"cleversocks/conn/handshake"
	"cleversocks/conn/relay"
)

// reactive runs the machine of a session's handshake on a reactor, as driver does
// in a task. It never waits: what has to, becomes a task (reactive_task_linux.go).
// Between two turns of a reactor it is at one of the places below.
type reactive struct {
	*opening
	g     *Group
	lane  *lane
	seat  relay.Seat
	place reactivePlace

	// more: the client may have sent something that no event will tell of. hup: its
	// stream has ended, or is reset, so that there always is more to read.
	more, hup bool
	// serverMore is more of the server's.
	serverMore bool
	way        way       // of the dial
	dialBegan  time.Time // is when the first socket was opened
	lingered   int       // bytes of a refused client that were dropped
	unwatched  bool      // no event comes

	// The lane has these.
	until      time.Time
	prev, next *reactive // nil: it is not on the lane's list
}

// reactivePlace says what a reactive waits for.
type reactivePlace uint8

const (
	isGone    reactivePlace = iota // nothing: the session is somebody else's, or over
	isShaking                      // the client's bytes
	isDialing                      // the server's socket, or the client's end
	isRefused                      // the client's end of stream
)

// Ring has the session looked at, which has ended or has less time than before.
func (r *reactive) Ring() { r.seat.Ring() }

// Turn makes it a relay.Guest.
func (r *reactive) Turn(side relay.Side, events uint32) {
	if r.place == isGone {
		return
	}
	lane := r.lane
	lane.turns.Lock()
	defer lane.turns.Unlock()
	r.turn(side, events)
}

// turn is Turn for a session that is still served here.
func (r *reactive) turn(side relay.Side, events uint32) {
	defer r.contain(r.g)
	if side == relay.ClientSide {
		r.noteClient(events)
	}
	switch {
	case side == relay.SideUnknown:
		r.lookAgain()
	case r.scope.isEnded():
		r.ended()
	case events == 0:
		r.rung()
	case side == relay.ServerSide:
		r.serverTurn(events)
	case r.place == isShaking && r.more:
		r.run(handshake.Read)
	case r.place == isDialing:
		r.clientTurn(events)
	case r.place == isRefused:
		r.linger()
	}
}

// noteClient notes what an event says of the client's socket: its edge is used up.
func (r *reactive) noteClient(events uint32) {
	const hup = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
	r.hup = r.hup || events&hup != 0
	r.more = r.more || events&(unix.EPOLLIN|hup) != 0
}

// lookAgain asks the sockets for what events may have told, and got lost.
func (r *reactive) lookAgain() {
	s := r.session
	for side, end := range map[relay.Side]rawEnd{relay.ServerSide: r.raw.server, relay.ClientSide: r.raw.client} {
		if end == 0 || !s.scope.heldBy(r) {
			continue
		}
		if events := pollNow(end, unix.POLLIN|unix.POLLOUT|unix.POLLRDHUP); events != 0 {
			r.turn(side, events)
		}
	}
}

// pollNow is what epoll would report of a socket, whose flags are poll(2)'s.
func pollNow(e rawEnd, events int16) uint32 {
	look := []unix.PollFd{{Fd: int32(e.fd()), Events: events}}
	if n, err := unix.Poll(look, 0); err != nil || n == 0 {
		return 0
	}
	return uint32(uint16(look[0].Revents))
}

// run does what the machine asks for until it has to wait, or the session is
// somebody else's.
func (r *reactive) run(action handshake.Action) {
	for ok := true; ok; {
		r.trace(action)
		action, ok = r.step(action)
	}
}

// step does one thing; ok is false when the next one has to wait for a turn.
func (r *reactive) step(action handshake.Action) (next handshake.Action, ok bool) {
	switch action {
	case handshake.Read:
		return r.read()
	case handshake.Write:
		return r.write()
	case handshake.Admit, handshake.Explain:
		return r.act(action)
	case handshake.Identify:
		if r.policy.Auth.FreeAtOnce(r.client.Addr()) {
			return r.act(action)
		}
	case handshake.Verify:
		if next, ok = r.recall(); ok {
			return next, true
		}
	case handshake.Decide:
		if r.identity.Account == nil || !r.h.guards.Users.Asks() || r.h.accounts.enterNow(r.session) {
			r.lane.forget(r)
			r.requested()
			return r.act(action)
		}
	case handshake.Dial:
		return r.dial()
	case handshake.Relay:
		r.relay()
		return 0, false
	case handshake.Refuse:
		r.refuse()
		return 0, false
	default:
	}
	r.toTask(func(d *driver) bool { return d.run(action) })
	return 0, false
}

// read feeds the machine what has come. What is less than there was room for is
// all: the next event tells of more.
func (r *reactive) read() (next handshake.Action, ok bool) {
	if !r.more {
		r.place = isShaking
		return 0, false
	}
	n, errno := rawRead(r.raw.client, r.lane.buf[:])
	r.more = errno == 0 && (n == len(r.lane.buf) || r.hup)
	switch {
	case errno == unix.EAGAIN:
		r.place = isShaking
		return 0, false
	case errno != 0:
		return r.machine.Lost(os.NewSyscallError("read", errno)), true
	case n == 0:
		return r.machine.Lost(io.EOF), true
	}
	return r.feed(r.lane.buf[:n]), true
}

// write sends what the machine answers. A client that does not read it is a
// task's.
func (r *reactive) write() (next handshake.Action, ok bool) {
	out := r.machine.Output()
	n, errno := rawWrite(r.raw.client, out)
	switch {
	case n == len(out):
		return r.machine.Written(), true
	case errno != 0 && errno != unix.EAGAIN && r.raw.server != 0:
		r.toTask(func(d *driver) bool { return d.clientLost(os.NewSyscallError("write", errno)) })
		return 0, false
	case errno != 0 && errno != unix.EAGAIN:
		return r.machine.Lost(os.NewSyscallError("write", errno)), true
	}
	r.sent = n
	r.toTask(func(d *driver) bool { return d.run(handshake.Write) })
	return 0, false
}

// rung is for a handshake that a drain may have cut short. One whose socket a reactor
// cannot watch, for want of memory, may have more luck as a task.
func (r *reactive) rung() {
	if r.unwatched {
		r.toTask(func(d *driver) bool { return d.run(handshake.Read) })
		return
	}
	if at, cut := r.cutAt(); cut && r.place == isShaking {
		r.lane.expect(r, at)
	}
}

// expired is for when the time is over that the lane was told.
func (r *reactive) expired() {
	if r.place == isGone {
		return
	}
	lane := r.lane
	lane.turns.Lock()
	defer lane.turns.Unlock()
	defer r.contain(r.g)
	switch r.place {
	case isShaking:
		r.run(r.machine.Lost(os.ErrDeadlineExceeded))
	case isDialing:
		r.dialExpired()
	case isRefused:
		r.close()
	case isGone:
	}
}

// ended is for a session that was told to end.
func (r *reactive) ended() {
	switch r.place {
	case isShaking:
		r.run(r.machine.Lost(errEndedHere))
	case isDialing:
		r.abandonDial()
	case isRefused:
		r.close()
	case isGone:
	}
}

// errEndedHere is what a read or a dial meets whose session was told to end.
var errEndedHere = errors.New("the connection was told to end")

// contain ends the session alone whose step has panicked.
func (r *reactive) contain(g *Group) {
	p := recover()
	if p == nil {
		return
	}
	if r.opening == nil { // in its end
		_ = g.handler.panics.Panicked(context.Background(), "conn", p)
		return
	}
	r.panicked(g.handler.panics, "conn", p)
	r.machine.Reset() // gives back what it took; whatever else there is is not used again
	s := r.session
	r.leave(s)
	s.abandon()
	g.end(s)
}

// rawRead and rawWrite are for sockets that do not block. Their system calls are
// raw: telling the scheduler costs more than a short one does.
func rawRead(from rawEnd, b []byte) (int, unix.Errno) { return rawIO(unix.SYS_READ, from, b) }
func rawWrite(to rawEnd, b []byte) (int, unix.Errno)  { return rawIO(unix.SYS_WRITE, to, b) }
func rawIO(call uintptr, e rawEnd, b []byte) (int, unix.Errno) {
	if len(b) == 0 {
		return 0, 0
	}
	for {
		n, _, errno := unix.RawSyscall(call, uintptr(e.fd()), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b))) //nolint:gosec // the kernel gets b's own bounds
		switch errno {
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
