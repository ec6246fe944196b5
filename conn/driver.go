package conn

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"time"

	"cleversocks/authsvc/gssapi"
	"cleversocks/conn/handshake"
	"cleversocks/conn/relay"
	"cleversocks/conn/wire"
)

// driver runs the machine of a session's handshake in the session's task, where
// whatever the machine asks for may block: a read, a log-in, a look-up, a dial.
// It ends before the relay starts, so that an idle tunnel does not hold it.
type driver struct {
	*opening
	buf [handshakeBuffer]byte // of one read
	in  *bufio.Reader         // of those who serve the connection's requests; nil: none do
	// release gives the connection up to a command that ends with the
	// session's context by itself.
	release func() bool
}

// handshakeBuffer is what a handshake reads at a time, in bytes. Nearly all there
// is to read is shorter, and a client that says nothing holds it.
const handshakeBuffer = 1024

// requestBuffer is what is read ahead of requests of HTTP, in bytes.
const requestBuffer = 4096

// lastWords is how long the answer to a client takes at most whose handshake
// has failed, be its time over or not.
const lastWords = time.Second

// newDriver is for a session that comes to its door, or one whose handshake has
// begun on a reactor.
func (h *Handler) newDriver(o *opening) *driver {
	d, ok := h.drivers.Get().(*driver)
	if !ok {
		d = new(driver)
	}
	d.opening = o
	return d
}

// put gives the driver back, with nothing of its session.
func (d *driver) put() {
	h := d.h
	d.opening.put()
	d.opening = nil
	if d.in != nil {
		d.in.Reset(nil)
		h.readers.Put(d.in)
	}
	d.in, d.release = nil, nil
	h.drivers.Put(d)
}

// run does what the machine asks for until its end, and reports whether there is
// a tunnel to relay, or an association to serve.
func (d *driver) run(action handshake.Action) bool {
	m := &d.machine
	for {
		d.trace(action)
		switch action {
		case handshake.Read:
			action = d.read()
		case handshake.Write:
			if _, err := d.conn.Write(m.Output()[d.sent:]); err != nil && d.server != nil {
				return d.clientLost(err)
			} else if err != nil {
				action = m.Lost(err)
			} else {
				action, d.sent = m.Written(), 0
			}
		case handshake.Protect:
			d.protect()
			action = m.Protected()
		case handshake.Decide, handshake.Forward, handshake.Multiplex:
			if !d.untimed() {
				return false
			}
			fallthrough
		default:
			next, ok := d.act(action)
			if !ok {
				return d.end(action)
			}
			action = next
		}
	}
}

// untimed lifts the time that the handshake has, once there is a request.
func (d *driver) untimed() bool {
	d.requested()
	if err := d.socket.SetDeadline(time.Time{}); err != nil {
		return d.fail("handshake", err)
	}
	return true
}

// end does what the machine leaves to others.
func (d *driver) end(action handshake.Action) bool {
	switch action {
	case handshake.Bind:
		return d.h.commands.bind(d)
	case handshake.Associate:
		return true
	case handshake.Forward:
		tunnel, next := d.h.plain.serve(d)
		if next != nil {
			return d.connectAfter(next)
		}
		return tunnel
	case handshake.Multiplex:
		return d.h.streams.serve(d)
	case handshake.Relay:
		return d.connected()
	default:
		return d.refuse()
	}
}

// read feeds the machine what comes.
func (d *driver) read() handshake.Action {
	n, err := d.conn.Read(d.buf[:])
	if n == 0 && err != nil {
		return d.machine.Lost(err)
	}
	return d.feed(d.buf[:n])
}

// protect wraps the session's connection, with what has been read of it ahead.
func (d *driver) protect() {
	d.conn = gssapi.NewConn(d.conn, d.ahead(), d.grant.Security, d.level)
}

// ahead is the session's connection behind what the machine has been fed of it
// and has no use for.
func (d *driver) ahead() io.Reader {
	read := d.machine.TakeUnread()
	if len(read) == 0 {
		return d.conn
	}
	return io.MultiReader(bytes.NewReader(read), d.conn)
}

// refuse sends a client's last words, as far as it still listens. A request
// counts by what was decided, the record tells what was sent.
func (d *driver) refuse() bool {
	if errors.Is(d.err, errClientGone) {
		return false
	}
	err := d.sendLast(d.machine.Output())
	d.replied = d.machine.Owed() && err == nil
	if err != nil {
		if log := d.logger(d.h.log, slog.LevelDebug); log != nil {
			log.Log(d.ctx, slog.LevelDebug, "reply not sent", "err", err)
		}
	}
	return false
}

func (d *driver) sendLast(words []byte) error {
	if len(words) == 0 {
		return nil
	}
	if err := d.conn.SetWriteDeadline(time.Now().Add(lastWords)); err != nil {
		return err
	}
	_, err := d.conn.Write(words)
	return err
}

// connected passes on what the client sent before it was told that it is
// connected. The few bytes fit into an empty socket buffer: this cannot block, so
// it needs no deadline, and neither did the reply.
func (d *driver) connected() bool {
	if d.protocol == wire.Transparent && d.h.dialed.own(d.session) {
		// What it was dialed by may not have been noted yet when it began, as
		// nothing but that has to happen before it is accepted.
		return d.clientLost(errLoop)
	}
	d.replied = true
	if mode := d.policy.listener(d.listener).SNI; mode != SNIOff && !d.sniffTunnel(mode) {
		return false
	}
	return d.passAhead(d.first)
}

// passAhead gives the server what the client sent ahead, and then more.
func (d *driver) passAhead(more []byte) bool {
	var read []byte
	if d.in != nil {
		read, _ = d.in.Peek(d.in.Buffered())
	}
	for _, ahead := range [...][]byte{d.machine.Unread(), read, more} {
		if len(ahead) == 0 {
			continue
		}
		if err := d.charge.pay(d.ctx, relay.In, len(ahead)); err != nil {
			return d.notPaid(err)
		}
		if _, err := d.server.Write(ahead); err != nil {
			return d.serverLost(err)
		}
		d.moved(relay.In, len(ahead))
	}
	return true
}

// reader is what those read the client's bytes from who serve the requests from
// here on.
func (d *driver) reader() *bufio.Reader {
	n := len(d.machine.Unread())
	d.in, _ = d.h.readers.Get().(*bufio.Reader)
	d.in.Reset(d.ahead())
	_, _ = d.in.Peek(n) // all of it is buffered from here on
	return d.in
}
