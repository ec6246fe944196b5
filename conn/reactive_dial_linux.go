package conn

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"cleversocks/conn/dial"
	"cleversocks/conn/handshake"
	"cleversocks/conn/relay"
)

// dial begins to connect to where the request wants to go, if that is known
// without waiting.
func (r *reactive) dial() (next handshake.Action, ok bool) {
	err := r.h.connector.decide(r.session, &r.way)
	switch {
	case errors.Is(err, dial.ErrWaits):
		r.toTask(func(d *driver) bool { return d.run(handshake.Dial) })
		return 0, false
	case err != nil:
		return r.answer(err, r.dialed), true
	}
	socket := r.way.plan.Socket()
	fd, err := socket.Open()
	if err != nil {
		return r.notDialed(&net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(socket.To), Err: err})
	}
	r.setServer(rawEndOf(fd))
	if err := r.seat.Watch(fd, relay.ServerSide, relay.Dialing); err != nil {
		return r.notDialed(os.NewSyscallError("epoll_ctl", err))
	}
	r.place, r.dialBegan = isDialing, time.Now()
	r.expectDial()
	return 0, false
}

// expectDial has the lane tell when there is something to do about the dial: when
// its time is over, or when a client that has shut its side down is looked at.
func (r *reactive) expectDial() {
	until := r.way.plan.Until()
	if watch := r.dialBegan.Add(r.h.watch.after); r.hup && time.Now().Before(watch) && (until.IsZero() || watch.Before(until)) {
		until = watch
	}
	if until.IsZero() {
		r.lane.forget(r)
		return
	}
	r.lane.expect(r, until)
}

// setServer notes the server's socket, or that there is none.
func (r *reactive) setServer(e rawEnd) {
	r.scope.mu.Lock()
	defer r.scope.mu.Unlock()
	r.raw.server = e
}

// closeServer closes it.
func (r *reactive) closeServer() {
	end := r.raw.server
	r.setServer(0)
	end.close()
}

// serverTurn is for an event of the server's socket.
func (r *reactive) serverTurn(events uint32) {
	const gone = unix.EPOLLHUP | unix.EPOLLERR
	if r.place != isDialing || events&(gone|unix.EPOLLOUT) == 0 {
		return
	}
	if events&gone != 0 {
		errno, err := unix.GetsockoptInt(r.raw.server.fd(), unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && errno != 0 {
			to := r.way.plan.First()
			if next, ok := r.notDialed(&net.OpError{
				Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: os.NewSyscallError("connect", unix.Errno(errno)),
			}); ok {
				r.run(next)
			}
			return
		}
	}
	r.serverMore = events&(gone|unix.EPOLLIN|unix.EPOLLRDHUP) != 0
	r.lane.forget(r)
	_ = r.way.plan.Done(nil)
	r.noteEnds(r.way.route, r.raw.server.local(), r.way.plan.First())
	r.run(r.answer(r.announceRaw(), r.dialed))
}

// announceRaw is announce for a server's socket.
func (r *reactive) announceRaw() error {
	if !r.way.route.Announces() {
		return nil
	}
	header, err := r.way.route.Header()
	if err == nil {
		if n, errno := rawWrite(r.raw.server, header); n < len(header) {
			err = os.NewSyscallError("write", errno)
		}
	}
	if err != nil {
		r.closeServer()
		return notAnnounced(err)
	}
	return nil
}

// notDialed is for a connection that has failed. Where there is something else to
// try, a task does.
func (r *reactive) notDialed(err error) (next handshake.Action, ok bool) {
	r.closeServer()
	r.lane.forget(r)
	if r.way.plan.Final(err) {
		return r.answer(r.way.plan.Done(err), r.dialed), true
	}
	r.way.plan.Pass(err)
	r.dialInTask()
	return 0, false
}

func (r *reactive) dialInTask() {
	w := r.way
	r.opening.way = &w
	r.toTask(func(d *driver) bool { return d.run(handshake.Dial) })
}

// dialExpired is for a dial whose client has shut its side down, or whose time is
// over: that of its first address, or all of it.
func (r *reactive) dialExpired() {
	until := r.way.plan.Until()
	switch now := time.Now(); {
	case until.IsZero() || now.Before(until):
		if !r.hup || r.waitsOn() {
			r.expectDial()
		}
	case r.way.plan.Final(os.ErrDeadlineExceeded):
		if next, ok := r.notDialed(os.ErrDeadlineExceeded); ok {
			r.run(next)
		}
	default:
		r.closeServer()
		r.way.plan.Pass(nil)
		r.dialInTask()
	}
}

// clientTurn is for an event of the client's socket while its server is dialed:
// what clientWatch does for tasks. Who has shut its side down may have sent
// something ahead, or be connected in a moment.
func (r *reactive) clientTurn(events uint32) {
	switch {
	case events&(unix.EPOLLHUP|unix.EPOLLERR) != 0:
		r.clientGone()
	case r.hup && time.Since(r.dialBegan) >= r.h.watch.after:
		r.waitsOn()
	case r.hup:
		r.expectDial()
	}
}

// waitsOn looks whether a client that has shut its side down still waits for its
// server, or has left: then the session ends. That the server is there already counts
// first: it may be this reactor that is late.
func (r *reactive) waitsOn() bool {
	if events := pollNow(r.raw.server, unix.POLLOUT); events != 0 {
		r.serverTurn(events)
		return false
	}
	if left(r.raw.client.fd(), r.hasMore(), true) {
		r.clientGone()
		return false
	}
	return true
}

// clientGone ends a session whose client has left during the dial.
func (r *reactive) clientGone() {
	r.cancel(errClientGone)
	r.abandonDial()
}

// abandonDial ends the dial of a session that was told to end.
func (r *reactive) abandonDial() {
	r.closeServer()
	r.lane.forget(r)
	why := context.Cause(r.ctx)
	err := r.way.plan.Done(context.Canceled)
	if errors.Is(why, errClientGone) {
		err = why
	}
	r.run(r.answer(err, r.dialed))
}
