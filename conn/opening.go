package conn

import (
	"context"
	"errors"

	"cleversocks/authsvc"
	"cleversocks/authsvc/gssapi"
	"cleversocks/conn/handshake"
	"cleversocks/conn/wire"
)

// opening is a session up to its relay, as far as that is not about the client's
// bytes: the machine of its handshake, and what the machine's actions mean here.
// Whoever reads and writes embeds it; see driver.
type opening struct {
	*session
	h       *Handler
	machine handshake.Machine
	grant   authsvc.Grant   // of a client that logged in
	level   gssapi.Level    // what was agreed on by GSSAPI
	ways    [2]authsvc.Kind // the memory of Terms.Ways
	hearing
	// resumed: the connection has served plain requests already.
	resumed bool
	sent    int  // how much of what Write sends is sent already
	way     *way // of a dial that a reactor has begun, and that takes waiting; nil: none
}

// newOpening is for a session that has come.
func (h *Handler) newOpening(s *session) *opening {
	o, ok := h.openings.Get().(*opening)
	if !ok {
		o = new(opening)
	}
	o.session, o.h = s, h
	return o
}

// put gives the opening back, with nothing of its session.
func (o *opening) put() {
	h := o.h
	o.machine.Reset()
	o.forget()
	o.session, o.h, o.resumed, o.grant, o.level, o.sent, o.way = nil, nil, false, authsvc.Grant{}, 0, 0, nil
	h.openings.Put(o)
}

// begin starts the machine.
func (o *opening) begin(with handshake.Options) handshake.Action {
	action := o.machine.Begin(with)
	o.speaks(o.machine.Protocol())
	return action
}

// act does what an action asks for, and gives the next one. Search, Verify,
// Decide and Dial may block. ok is false for an action that is not here to be
// done.
func (o *opening) act(action handshake.Action) (next handshake.Action, ok bool) {
	m := &o.machine
	switch action {
	case handshake.Identify:
		return m.Identified(o.identify()), true
	case handshake.Search:
		return m.Identified(o.search()), true
	case handshake.Admit:
		o.letIn()
		return m.Admitted(), true
	case handshake.Verify:
		return o.verify(), true
	case handshake.Agree:
		return o.agree(), true
	case handshake.Decide:
		return o.answer(o.decide(), m.Allowed), true
	case handshake.Dial:
		return o.answer(o.dial(), o.dialed), true
	case handshake.Explain:
		return o.explain(), true
	default:
		return action, false
	}
}

// feed gives the machine what has come.
func (o *opening) feed(b []byte) handshake.Action {
	o.stage.CompareAndSwap(stageSilent, stageTalking)
	action := o.machine.Feed(b)
	o.speaks(o.machine.Protocol())
	return action
}

// trace logs a step.
func (o *opening) trace(action handshake.Action) {
	if log := o.logger(o.h.log, levelTrace); log != nil {
		log.Log(o.ctx, levelTrace, "handshake", "step", action.String(), "protocol", o.protocol.String())
	}
}

// speaks notes what the client speaks.
func (o *opening) speaks(p wire.Protocol) {
	if p == o.protocol {
		return
	}
	active := o.h.metrics.Conn.Active
	active.Of(o.protocol.String()).Add(-1)
	active.Of(p.String()).Add(1)
	o.protocol = p
}

// identify finds out what is known of the client.
func (o *opening) identify() handshake.Terms {
	terms, identity := o.terms(o.ways[:0])
	if terms.Free {
		o.identity = identity
	}
	return terms
}

// search finds out what other replicas know of a client that none here does.
func (o *opening) search() handshake.Terms {
	terms, _ := o.terms(o.ways[:0])
	identity, known := o.freeElsewhere()
	if known {
		o.identity, terms.Free, terms.Named = identity, true, true
	}
	return terms
}

// verify has the client's credentials judged.
func (o *opening) verify() handshake.Action {
	attempt := o.machine.Attempt()
	grant, err := o.verifyWhileThere(attempt)
	_ = o.timed() // the watch has used the time up for reads; a conn that cannot have one fails its next read
	return o.verified(attempt, grant, err)
}

// verifyWhileThere has credentials judged as long as their client stays: they may
// have to wait for their turn, behind thousands of guesses. At a drain they do not.
func (o *opening) verifyWhileThere(attempt *authsvc.Attempt) (authsvc.Grant, error) {
	ctx, cancel := context.WithCancelCause(o.ctx)
	defer cancel(nil)
	if h := o.h; o.stage.Load() != stageRequested { // the opening is given back before this may run
		defer context.AfterFunc(h.draining, func() { h.deadlines.cutTurn(cancel) })()
	}
	asked := o.protocol == wire.HTTP && !o.machine.Head().IsConnect() // whoever has asked for a page may shut its side down
	defer o.h.logins.client(o.session, asked || o.hasMore())()
	return o.h.login.verify(ctx, o.session, attempt)
}

// recall is verify where that takes no waiting; ok is false where it does.
func (o *opening) recall() (next handshake.Action, ok bool) {
	attempt := o.machine.Attempt()
	grant, decided, err := o.h.login.recall(o.session, attempt)
	if !decided {
		return handshake.Verify, false
	}
	return o.verified(attempt, grant, err), true
}

func (o *opening) verified(attempt *authsvc.Attempt, grant authsvc.Grant, err error) handshake.Action {
	if _, isToken := attempt.Credentials.(authsvc.Token); isToken && err == nil && o.protocol == wire.SOCKS5 && grant.Security == nil {
		err = handshake.ErrNoMethod // an authenticator of tokens without keys
	}
	if err != nil {
		return o.machine.Denied(err)
	}
	o.grant = grant
	return o.machine.Verified(grant.Reply)
}

// agree agrees on the protection of what follows.
func (o *opening) agree() handshake.Action {
	protection := o.policy.listener(o.listener).Protection
	level, answer, err := protection.Agree(o.grant.Security, o.machine.Token())
	if err != nil {
		o.policy.Auth.Refused(o.ctx, o.machine.Attempt(), err)
		return o.machine.Denied(errors.Join(handshake.ErrCredentials, err))
	}
	o.level = level
	return o.machine.Agreed(answer, level != gssapi.LevelNone)
}

// decide asks the rules, and takes one of the user's connections.
func (o *opening) decide() error {
	if log := o.logger(o.h.log, levelTrace); log != nil {
		log.Log(o.ctx, levelTrace, "request", "command", o.request.Command, "target", o.request.Dest)
	}
	if err := o.h.dialed.refuse(o.session); err != nil {
		return err
	}
	if err := o.h.accounts.enter(o.session); err != nil {
		return err
	}
	switch {
	case o.request.Command == wire.CommandConnect:
		return o.h.judge.name(o.session)
	case o.request.Command == wire.CommandUDPAssociate && o.policy.UDP != nil,
		o.request.Command == wire.CommandBind && o.policy.Bind != nil:
		return o.h.judge.command(o.session)
	}
	return errCommand
}

// dial connects to where the request wants to go.
func (o *opening) dial() error {
	return o.h.connector.connect(o.session, o.hasMore(), o.way)
}

// hasMore says whether the client has sent more than its request.
func (o *opening) hasMore() bool { return len(o.machine.Unread())+len(o.first) > 0 }

// dialed is for a session that has its server.
func (o *opening) dialed() handshake.Action {
	o.h.dialed.addServer(o.session) // the request that comes back by it is later than the reply
	o.h.replies.granted(o.session)
	return o.machine.Dialed(o.boundAddress())
}

// answer goes on as a request did: with what its error means to the client, or
// without one.
func (o *opening) answer(err error, on func() handshake.Action) handshake.Action {
	if err == nil {
		return on()
	}
	return o.machine.Failed(o.told(o.h.replies.requestFailed(o.session, err)))
}

// explain says what an error of the handshake means.
func (o *opening) explain() handshake.Action {
	o.request = o.machine.Request()
	meaning := o.h.replies.handshakeFailed(o.session, o.machine.Err(), o.machine.Owed())
	if o.ctx.Err() != nil {
		meaning.status = 0 // nobody reads it
	}
	return o.machine.Failed(o.told(meaning))
}

// told is what the client is told of an outcome.
func (o *opening) told(meaning outcome) handshake.Failure {
	f := handshake.Failure{Code: meaning.reply}
	if o.protocol == wire.HTTP {
		f.HTTP = o.httpRefusal(meaning)
	}
	return f
}

// requested is for a session that has its request, before the time of its
// handshake is lifted.
func (o *opening) requested() {
	o.request = o.machine.Request()
	o.h.deadlines.requested(o.session)
	o.h.handshakes.requested(o.session)
	if !o.resumed {
		o.h.metrics.Conn.Handshakes.Of(o.protocol.String(), "ok").Inc()
	}
}
