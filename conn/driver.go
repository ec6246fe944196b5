package conn

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"time"

	"cleversocks/authsvc"
	"cleversocks/authsvc/gssapi"
	"cleversocks/conn/handshake"
	"cleversocks/conn/relay"
	"cleversocks/conn/wire"
)

// driver runs the machine of a session's handshake in the session's task, where
// whatever the machine asks for may block: a read, a log-in, a look-up, a dial.
// It ends before the relay starts, so that an idle tunnel does not hold it.
type driver struct {
	*session
	h       *Handler
	machine handshake.Machine
	// in is what the machine is fed from, and what those read from who take over
	// from it.
	in    *bufio.Reader
	grant authsvc.Grant   // of a client that logged in
	level gssapi.Level    // what was agreed on by GSSAPI
	ways  [2]authsvc.Kind // the memory of Terms.Ways
	// release gives the connection up to a command that ends with the
	// session's context by itself.
	release func() bool
	// resumed: the connection has served plain requests already.
	resumed bool
}

// handshakeBuffer is what a handshake reads at a time, in bytes.
const handshakeBuffer = 4096

// lastWords is how long the answer to a client takes at most whose handshake
// has failed, be its time over or not.
const lastWords = time.Second

// newDriver is for a session that is through its door.
func (h *Handler) newDriver(s *session) *driver {
	d, ok := h.drivers.Get().(*driver)
	if !ok {
		d = &driver{in: bufio.NewReaderSize(nil, handshakeBuffer)}
	}
	d.session, d.h = s, h
	return d
}

// put gives the driver back, with nothing of its session.
func (d *driver) put() {
	h := d.h
	d.machine.Reset()
	d.in.Reset(nil)
	d.session, d.h, d.release, d.resumed, d.grant, d.level = nil, nil, nil, false, authsvc.Grant{}, 0
	h.drivers.Put(d)
}

// begin starts the machine.
func (d *driver) begin(o handshake.Options) handshake.Action {
	d.in.Reset(d.conn)
	action := d.machine.Begin(o)
	d.speaks(d.machine.Protocol())
	return action
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
			if _, err := d.conn.Write(m.Output()); err != nil && d.server != nil {
				return d.clientLost(err)
			} else if err != nil {
				action = m.Lost(err)
			} else {
				action = m.Written()
			}
		case handshake.Identify:
			action = m.Identified(d.identify())
		case handshake.Search:
			action = m.Identified(d.search())
		case handshake.Admit:
			d.letIn()
			action = m.Admitted()
		case handshake.Verify:
			action = d.verify()
		case handshake.Agree:
			action = d.agree()
		case handshake.Protect:
			d.protect()
			action = m.Protected()
		case handshake.Decide:
			if !d.requested() {
				return false
			}
			action = d.answer(d.decide(), m.Allowed)
		case handshake.Dial:
			action = d.answer(d.dial(), d.dialed)
		case handshake.Explain:
			action = d.explain()
		default:
			return d.end(action)
		}
	}
}

// end does what the machine leaves to others.
func (d *driver) end(action handshake.Action) bool {
	switch action {
	case handshake.Bind:
		return d.h.commands.bind(d)
	case handshake.Associate:
		return true
	case handshake.Forward:
		if !d.requested() {
			return false
		}
		tunnel, next := d.h.plain.serve(d)
		if next != nil {
			return d.connectAfter(next)
		}
		return tunnel
	case handshake.Multiplex:
		return d.requested() && d.h.streams.serve(d)
	case handshake.Relay:
		return d.connected()
	default:
		return d.refuse()
	}
}

// trace logs a step.
func (d *driver) trace(action handshake.Action) {
	if log := d.logger(d.h.log, levelTrace); log != nil {
		log.Log(d.ctx, levelTrace, "handshake", "step", action.String(), "protocol", d.protocol.String())
	}
}

// read feeds the machine what comes.
func (d *driver) read() handshake.Action {
	if _, err := d.in.Peek(1); err != nil {
		return d.machine.Lost(err)
	}
	d.stage.CompareAndSwap(stageSilent, stageTalking)
	b, _ := d.in.Peek(d.in.Buffered())
	action := d.machine.Feed(b)
	_, _ = d.in.Discard(len(b))
	d.speaks(d.machine.Protocol())
	return action
}

// speaks notes what the client speaks.
func (d *driver) speaks(p wire.Protocol) {
	if p == d.protocol {
		return
	}
	active := d.h.metrics.Conn.Active
	active.Of(d.protocol.String()).Add(-1)
	active.Of(p.String()).Add(1)
	d.protocol = p
}

// identify finds out what is known of the client.
func (d *driver) identify() handshake.Terms {
	terms, identity := d.terms(d.ways[:0])
	if terms.Free {
		d.identity = identity
	}
	return terms
}

// search finds out what other replicas know of a client that none here does.
func (d *driver) search() handshake.Terms {
	terms, _ := d.terms(d.ways[:0])
	identity, known := d.freeElsewhere()
	if known {
		d.identity, terms.Free, terms.Named = identity, true, true
	}
	return terms
}

// verify has the client's credentials judged.
func (d *driver) verify() handshake.Action {
	attempt := d.machine.Attempt()
	grant, err := d.h.login.verify(d.session, attempt)
	if _, isToken := attempt.Credentials.(authsvc.Token); isToken && err == nil && d.protocol == wire.SOCKS5 && grant.Security == nil {
		err = handshake.ErrNoMethod // an authenticator of tokens without keys
	}
	if err != nil {
		return d.machine.Denied(err)
	}
	d.grant = grant
	return d.machine.Verified(grant.Reply)
}

// agree agrees on the protection of what follows.
func (d *driver) agree() handshake.Action {
	protection := d.policy.listener(d.listener).Protection
	level, answer, err := protection.Agree(d.grant.Security, d.machine.Token())
	if err != nil {
		d.policy.Auth.Refused(d.ctx, d.machine.Attempt(), err)
		return d.machine.Denied(errors.Join(handshake.ErrCredentials, err))
	}
	d.level = level
	return d.machine.Agreed(answer, level != gssapi.LevelNone)
}

// protect wraps the session's connection, with what has been read of it ahead.
func (d *driver) protect() {
	d.conn = gssapi.NewConn(d.conn, d.ahead(), d.grant.Security, d.level)
	d.in.Reset(d.conn)
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

// requested is for a session that has its request: the time that the handshake has
// counts no more.
func (d *driver) requested() bool {
	d.request = d.machine.Request()
	d.h.deadlines.requested(d.session)
	d.h.handshakes.requested(d.session)
	if err := d.socket.SetDeadline(time.Time{}); err != nil {
		return d.fail("handshake", err)
	}
	if !d.resumed {
		d.h.metrics.Conn.Handshakes.Of(d.protocol.String(), "ok").Inc()
	}
	return true
}

// decide asks the rules, and takes one of the user's connections.
func (d *driver) decide() error {
	if log := d.logger(d.h.log, levelTrace); log != nil {
		log.Log(d.ctx, levelTrace, "request", "command", d.request.Command, "target", d.request.Dest)
	}
	if err := d.h.dialed.refuse(d.session); err != nil {
		return err
	}
	if err := d.h.accounts.enter(d.session); err != nil {
		return err
	}
	switch {
	case d.request.Command == wire.CommandConnect:
		return d.h.judge.name(d.session)
	case d.request.Command == wire.CommandUDPAssociate && d.policy.UDP != nil,
		d.request.Command == wire.CommandBind && d.policy.Bind != nil:
		return d.h.judge.command(d.session)
	}
	return errCommand
}

// dial connects to where the request wants to go.
func (d *driver) dial() error { return d.h.connector.connect(d.session, len(d.machine.Unread()) > 0) }

// dialed is for a session that has its server.
func (d *driver) dialed() handshake.Action {
	d.h.dialed.addServer(d.session) // the request that comes back by it is later than the reply
	d.h.replies.granted(d.session)
	return d.machine.Dialed(d.boundAddress())
}

// answer goes on as a request did: with what its error means to the client, or
// without one.
func (d *driver) answer(err error, on func() handshake.Action) handshake.Action {
	if err == nil {
		return on()
	}
	return d.machine.Failed(d.told(d.h.replies.requestFailed(d.session, err)))
}

// explain says what an error of the handshake means.
func (d *driver) explain() handshake.Action {
	d.request = d.machine.Request()
	o := d.h.replies.handshakeFailed(d.session, d.machine.Err(), d.machine.Owed())
	if d.ctx.Err() != nil {
		o.status = 0 // nobody reads it
	}
	return d.machine.Failed(d.told(o))
}

// told is what a client is told of an outcome.
func (d *driver) told(o outcome) handshake.Failure {
	f := handshake.Failure{Code: o.reply}
	if d.protocol == wire.HTTP {
		f.HTTP = d.httpRefusal(o)
	}
	return f
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
	return d.passAhead(nil)
}

// passAhead gives the server what the client sent ahead, and then more.
func (d *driver) passAhead(more []byte) bool {
	read, _ := d.in.Peek(d.in.Buffered())
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
		d.counters.In.Add(int64(len(ahead)))
	}
	return true
}

// reader is what those read the client's bytes from who serve the requests from
// here on.
func (d *driver) reader() *bufio.Reader {
	n := len(d.machine.Unread())
	d.in.Reset(d.ahead())
	_, _ = d.in.Peek(n) // all of it is buffered from here on
	return d.in
}
