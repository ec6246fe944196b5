package conn

import (
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"cleversocks/conn/adopt"
	"cleversocks/conn/relay"
	"cleversocks/conn/wire"
)

// relay passes on what the client sent ahead, and has the reactor move the rest.
// As for the task's driver, the few bytes fit into an empty socket's buffer; what
// must be paid for may have to wait.
func (r *reactive) relay() {
	r.replied = true
	if ahead := r.machine.Unread(); len(ahead) > 0 {
		if r.charge.user != nil {
			r.toTask(func(d *driver) bool { return d.passAhead(nil) })
			return
		}
		n, errno := rawWrite(r.raw.server, ahead)
		r.moved(relay.In, n)
		if n < len(ahead) {
			rest := r.machine.TakeUnread()[n:]
			r.toTask(func(d *driver) bool {
				if errno != 0 && errno != unix.EAGAIN {
					return d.serverLost(os.NewSyscallError("write", errno))
				}
				return d.passAhead(rest)
			})
			return
		}
	}
	s, g := r.session, r.g
	g.revocable(s)
	options, done := g.handler.tunnel(s, g.ended)
	options.Lasts = s.policy.Dialer.Prober()
	tunnel := r.seat.Relay(r.raw.client.fd(), r.raw.server.fd(), r.more, r.serverMore, options, done)
	s.handTo(tunnel)
	r.opening.put()
	r.put()
}

// toTask gives the session to a task, which goes on with steps: with conns, and
// with all that the machine has been fed.
func (r *reactive) toTask(steps func(*driver) bool) {
	s, g, o := r.session, r.g, r.opening
	client, server, err := r.takeConns()
	r.leave(s)
	if err != nil {
		s.fail("handshake", err)
		o.put()
		g.end(s)
		return
	}
	s.scope.toTask(g.base)
	s.scope.mu.Lock()
	s.socket, s.conn, s.server = client, client, server
	s.scope.mu.Unlock()
	g.tasks.Go(func() error {
		g.run(s, func() bool {
			return g.handler.drive(o, func(d *driver) bool {
				if err := d.timed(); err != nil {
					return d.fail("handshake", err)
				}
				return steps(d)
			})
		})
		return nil
	})
}

// takeConns makes conns of the session's sockets, which has none as descriptors
// any more.
func (r *reactive) takeConns() (client, server net.Conn, err error) {
	s := r.session
	s.scope.mu.Lock()
	raw := s.raw
	s.raw = rawEnds{}
	s.scope.mu.Unlock()
	// A socket stays watched as long as any descriptor is open.
	_ = r.seat.Unwatch(raw.client.fd()) // it fails where it was not watched
	if raw.server != 0 {
		_ = r.seat.Unwatch(raw.server.fd())
		if server, err = adopt.Conn(raw.server.fd(), s.policy.Sockets); err != nil {
			raw.client.close()
			return nil, nil, err
		}
	}
	if client, err = adopt.Conn(raw.client.fd(), s.policy.Sockets); err != nil && server != nil {
		return nil, nil, errors.Join(err, server.Close())
	}
	return client, server, err
}

// refuse sends a client's last words, as far as it still listens, and has the
// connection closed such that they arrive: see driver.refuse and closePolitely.
func (r *reactive) refuse() {
	isEnded := r.scope.isEnded()
	out := r.machine.Output()
	sent := !isEnded
	if sent && len(out) > 0 {
		n, _ := rawWrite(r.raw.client, out)
		sent = n == len(out)
	}
	r.replied = r.machine.Owed() && sent
	if isEnded || r.protocol == wire.ProtocolUnknown || unix.Shutdown(r.raw.client.fd(), unix.SHUT_WR) != nil {
		r.close()
		return
	}
	r.place = isRefused
	r.lane.expect(r, time.Now().Add(lingerTime))
	r.linger()
}

// linger drops what a refused client still sends.
func (r *reactive) linger() {
	for r.more {
		n, errno := rawRead(r.raw.client, r.lane.buf[:])
		r.more = errno == 0 && (n == len(r.lane.buf) || r.hup)
		r.lingered += n
		if errno != 0 && errno != unix.EAGAIN || errno == 0 && n == 0 || r.lingered >= lingerBytes {
			r.close()
			return
		}
	}
}

// close ends a session that has no relay.
func (r *reactive) close() {
	s, g := r.session, r.g
	r.opening.put()
	r.leave(s)
	s.closeRaw()
	g.end(s)
}

// leave gives the place at the reactor back: the session is no longer the
// reactive's.
func (r *reactive) leave(s *session) {
	s.scope.release()
	r.seat.Leave()
	r.put()
}

// put gives the reactive back.
func (r *reactive) put() {
	g := r.g
	r.lane.forget(r)
	*r = reactive{}
	g.reactives.Put(r)
}
