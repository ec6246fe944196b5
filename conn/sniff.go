package conn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"cleversocks/authsvc/gssapi"
	"cleversocks/conn/cause"
	"cleversocks/conn/dial"
	"cleversocks/conn/relay"
	"cleversocks/conn/task"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/sniff"
	"cleversocks/listener/transparent"
)

// SNI is what a listener makes of the name of the server in what clients say
// first.
type SNI uint8

// The modes of listener.sni.
const (
	SNIOff   SNI = iota
	SNILog       // rules judge it, and records have it
	SNIMatch     // and it must be what was asked for
)

// errName is a name that is not the one that was asked for. It is refused by the
// listener's setting, as by a rule.
var errName = errors.New("the name in what the client said first")

// bySNI is the rule that a record names then.
const bySNI = "sni"

// The waits of a transparent client's first words before the dial. Whoever waits
// for the server's first is to be served soon; where the address alone would be
// denied, the name is all that may allow it.
const (
	sniffSoon   = 300 * time.Millisecond
	sniffNeeded = 5 * time.Second
)

// sniffed outcomes, by metrics.Listener.SNI.
const (
	sniNamed      = "named"
	sniUnnamed    = "unnamed"    // TLS or HTTP without a name
	sniOther      = "other"      // neither, or the server spoke first
	sniMismatch   = "mismatch"   // not the name that was asked for
	sniDenied     = "denied"     // by a rule
	sniMalformed  = "malformed"  // read apart by two servers
	sniUnfinished = "unfinished" // too slow or too large
)

// hearing is what a client says first, where that is looked at.
type hearing struct {
	first []byte
	words words // what it means, once known
	known bool
	heard atomic.Bool // it has begun
}

func (h *hearing) forget() {
	h.first, h.words, h.known = nil, words{}, false
	h.heard.Store(false)
}

// sniffAhead hears a transparent client out before anything is dialed, for the
// rules that know its server by name. Who says nothing in time is judged by the
// address, and heard when it does speak.
func (d *driver) sniffAhead(l Listener, dest netip.AddrPort) error {
	if l.SNI == SNIOff || l.Transparent == transparent.Off {
		return nil
	}
	wait := sniffSoon
	q := d.query()
	q.Command, q.Port = wire.CommandConnect, dest.Port()
	if !d.policy.ACL.Decide(&q, dest.Addr()).Allow {
		wait = sniffNeeded
	}
	end := d.started.Add(d.policy.Timeouts.Handshake)
	w, err := d.hear(wait, time.Until(end), nil)
	if deadlineErr := d.conn.SetReadDeadline(end); deadlineErr != nil {
		return deadlineErr
	}
	if errors.Is(err, errSilent) {
		return nil
	}
	if err == nil {
		d.note(w)
	}
	return err
}

// errSilent is a client that says nothing for a while.
var errSilent = errors.New("the client says nothing")

// look reads the name in the client's first words. HTTP is looked for only where
// nobody has been asked for a name.
func (d *driver) look() (sniff.Words, error) {
	if d.protocol == wire.Transparent {
		return sniff.First(d.first)
	}
	return sniff.Hello(d.first)
}

// hear reads the client's first words into d.first. It waits so long for the
// first byte, and then so long for the rest; m, which may be nil, breaks it off.
func (d *driver) hear(wait, rest time.Duration, m *meanwhile) (w words, err error) {
	until := time.Now().Add(wait)
	for {
		if w.Words, w.err = d.look(); !errors.Is(w.err, sniff.ErrShort) {
			return w, nil
		}
		if err := d.conn.SetReadDeadline(until); err != nil {
			return w, err
		}
		if m.isOver() {
			return w, errSilent // or what it has begun to say is an answer
		}
		d.first = slices.Grow(d.first, handshakeBuffer)
		n, err := d.conn.Read(d.first[len(d.first):cap(d.first)])
		if n > 0 && len(d.first) == 0 {
			d.heard.Store(true)
			until = time.Now().Add(rest)
		}
		d.first = d.first[:len(d.first)+n]
		switch {
		case n > 0 || err == nil:
		case errors.Is(err, io.EOF):
			return w, nil // whatever it was, it is all
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return w, err
		case len(d.first) == 0:
			return w, errSilent
		case !time.Now().Before(until):
			return w, nil
		}
	}
}

// words are what a client said first, and what is wrong with it.
type words struct {
	sniff.Words
	err error
}

// note notes what a client said first.
func (d *driver) note(w words) { d.sniffed, d.words, d.known = w.Name, w, true }

// sniffTunnel holds back what the client says first until the name in it is
// judged, and reports whether the tunnel goes on. A server that speaks before its
// client speaks no TLS: then nobody waits, and nothing is looked at.
func (d *driver) sniffTunnel(mode SNI) bool {
	early := d.known // with the request
	if !early {
		d.first = append(d.machine.TakeUnread(), d.buffered()...)
		w, ok := d.hearTunnel()
		if !ok {
			return false
		}
		d.note(w)
	}
	outcome, err := d.judgeName(mode, d.words, early)
	d.h.metrics.Listener.SNI.Of(outcome).Inc()
	if err == nil {
		return true
	}
	o := d.outcome(inTunnel, err)
	d.err, d.cause = err, o.cause
	d.h.replies.refused(d.session, o)
	if d.words.Kind == sniff.TLS {
		d.toldByTLS = d.sendLast([]byte(unrecognizedName)) == nil
	}
	return false
}

// unrecognizedName is TLS's alert for a name that is not served (RFC 6066 §3).
const unrecognizedName = "\x15\x03\x03\x00\x02\x02\x70"

// buffered takes what has been read of the client and not been used.
func (d *driver) buffered() []byte {
	if d.in == nil {
		return nil
	}
	b, _ := d.in.Peek(d.in.Buffered())
	_, _ = d.in.Discard(len(b))
	return b
}

// hearTunnel is hear while the server may speak too. It reports whether the
// tunnel goes on.
func (d *driver) hearTunnel() (w words, ok bool) {
	d.heard.Store(len(d.first) > 0)
	m := &meanwhile{d: d}
	_, m.wrapped = d.conn.(*gssapi.Conn)
	scope, _ := task.New(d.ctx, d.h.panics, "conn")
	scope.Go(func() error { m.run(); return nil })
	w, err := d.hear(cmp.Or(d.policy.Relay.Idle, forwardIdle), d.policy.Timeouts.Handshake, m)
	_ = d.server.SetReadDeadline(time.Unix(1, 0)) // a conn that cannot fails its next read too
	panicked := scope.Wait()
	switch {
	case panicked != nil:
		return w, d.fail("first bytes", panicked)
	case m.lost != nil:
		return w, m.lost()
	case errors.Is(err, errSilent) && !m.spoke:
		return w, d.fail("first bytes", &relay.EndError{Cause: cause.Idle})
	case err != nil && !errors.Is(err, errSilent):
		return w, d.clientLost(err)
	}
	if err := errors.Join(d.server.SetReadDeadline(time.Time{}), d.conn.SetReadDeadline(time.Time{})); err != nil {
		return w, d.clientLost(err)
	}
	return w, true
}

// meanwhile passes on what a server says while its client is listened to. Once
// it has said something before its client did, that is enough: it speaks no TLS,
// and the client is listened to no longer.
type meanwhile struct {
	d *driver
	// wrapped: a read of the client cannot be broken off, so that its server is
	// passed on until it speaks.
	wrapped bool
	spoke   bool
	over    atomic.Bool // the client need not be listened to any more
	lost    func() bool // ends the session, if a side broke
}

// isOver reports whether the client need not be listened to.
func (m *meanwhile) isOver() bool { return m != nil && m.over.Load() }

func (m *meanwhile) run() {
	buf := make([]byte, handshakeBuffer)
	for m.turn(buf) {
	}
	if m.lost != nil || m.spoke && !m.wrapped {
		m.over.Store(true)
		_ = m.d.conn.SetReadDeadline(time.Unix(1, 0)) // a conn that cannot fails its next read too
	}
}

// turn passes on what one read brings, and reports whether there may be more to do.
func (m *meanwhile) turn(buf []byte) (more bool) {
	n, err := m.d.server.Read(buf)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		// Before the client can answer to it.
		m.spoke = m.spoke || !m.d.heard.Load()
	}
	if n > 0 {
		if m.lost = m.pass(buf[:n]); m.lost != nil {
			return false
		}
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return false // the client has spoken
	case err != nil && !errors.Is(err, io.EOF):
		m.lost = func() bool { return m.d.serverLost(err) }
		return false
	}
	if !m.wrapped {
		return false
	}
	if half, ok := m.d.conn.(halfCloser); ok && err != nil {
		_ = half.CloseWrite() // the relay does it again, and does not know yet
	}
	return err == nil
}

// pass gives the client what its server says.
func (m *meanwhile) pass(b []byte) (lost func() bool) {
	if err := m.d.charge.pay(m.d.ctx, relay.Out, len(b)); err != nil {
		return func() bool { return m.d.notPaid(err) }
	}
	if _, err := m.d.conn.Write(b); err != nil {
		return func() bool { return m.d.clientLost(err) }
	}
	m.d.moved(relay.Out, len(b))
	return nil
}

// judgeName judges what the client said first. The outcome is for the metrics.
func (d *driver) judgeName(mode SNI, w words, judged bool) (outcome string, err error) {
	switch {
	case w.err == nil:
	case w.Kind == sniff.Other && errors.Is(w.err, sniff.ErrShort):
		return sniOther, nil // it ended, or the server spoke first
	case mode == SNIMatch:
		outcome = sniUnfinished
		if errors.Is(w.err, sniff.ErrMalformed) {
			outcome = sniMalformed
		}
		return outcome, notAsked(fmt.Errorf("%w: %w", errName, w.err))
	}
	if w.Kind == sniff.Other {
		return sniOther, nil
	}
	if w.Name != "" && !judged && !d.namesDest(w.Name) {
		if err := d.h.judge.sniffed(d.session); err != nil {
			return sniDenied, err
		}
	}
	if mode == SNIMatch {
		if err := d.matches(w.Name); err != nil {
			return sniMismatch, err
		}
	}
	if w.Name == "" {
		return sniUnnamed, nil
	}
	return sniNamed, nil
}

// notAsked is a refusal by listener.sni.
func notAsked(err error) error { return &deniedError{rule: bySNI, why: err} }

// namesDest reports whether a name is that of the destination that was asked for.
func (d *driver) namesDest(name string) bool {
	return d.request.Dest.IsName() && name != "" && (name == d.request.Dest.Name || d.named != nil && name == d.named.Name)
}

// matches refuses a name that is not the one that was asked for. Of an address
// that was asked for it must be a name; there, none will do.
func (d *driver) matches(name string) error {
	asked := d.request.Dest
	switch {
	case d.namesDest(name), !asked.IsName() && name == "":
		return nil
	case name == "":
		return notAsked(fmt.Errorf("%w is missing, where %s was asked for", errName, asked.Name))
	case asked.IsName():
		return notAsked(fmt.Errorf("%w is %s, and %s was asked for", errName, name, asked.Name))
	}
	ctx, cancel := context.WithTimeout(d.ctx, d.policy.Timeouts.Connect)
	defer cancel()
	addrs, err := d.policy.Dialer.Resolve(ctx, name, dial.Egress{})
	if err != nil {
		return notAsked(fmt.Errorf("%w is %s: %w", errName, name, err))
	}
	if !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Unmap() == asked.IP.Unmap() }) {
		return notAsked(fmt.Errorf("%w is %s, which is not at %s that was asked for", errName, name, asked.IP))
	}
	return nil
}

// sniffed judges the address that was dialed under the name that the client said
// first.
func (j *judge) sniffed(s *session) error {
	q := s.query()
	q.Name, q.Asked = s.sniffed, ""
	if !s.hostIP.IsValid() {
		decision, _ := s.policy.ACL.DecideName(&q)
		return j.verdict(s, decision, netip.Addr{})
	}
	return j.verdict(s, s.policy.ACL.Decide(&q, s.hostIP.Addr()), s.hostIP.Addr())
}
