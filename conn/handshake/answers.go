package handshake

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"cleversocks/authsvc"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
)

// answered checks that the driver answers what it was asked.
func (m *Machine) answered(to Action) { m.answeredEither(to, to) }

func (m *Machine) answeredEither(to, or Action) {
	if m.asked != to && m.asked != or {
		panic(fmt.Sprintf("handshake: an answer to %s or %s came after %s", to, or, m.asked))
	}
}

// Feed is the answer to Read. b is cleared: it may hold a password, and what is
// still needed of it has been copied.
func (m *Machine) Feed(b []byte) Action {
	m.answered(Read)
	defer clear(b)
	m.in = b
	if len(m.kept) > 0 {
		m.kept = append(m.kept, b...)
		m.in = m.kept
	}
	return m.run()
}

// Lost is the answer to Read or Write when the client sends or takes no more:
// err is io.EOF at its end of stream, os.ErrDeadlineExceeded when its time is
// up.
func (m *Machine) Lost(err error) Action {
	m.answeredEither(Read, Write)
	if errors.Is(err, io.EOF) && (len(m.in) > 0 || m.http.heads.Started()) {
		err = io.ErrUnexpectedEOF
	}
	reading := m.asked == Read
	m.out = nil
	if reading && m.protocol != nil && m.protocol.lost != nil {
		return m.ask(m.protocol.lost(m, err))
	}
	return m.ask(m.fail(err, nil))
}

// Written is the answer to Write.
func (m *Machine) Written() Action {
	m.answered(Write)
	m.out = nil
	return m.run()
}

// Identified is the answer to Identify and Search.
func (m *Machine) Identified(t Terms) Action {
	m.answeredEither(Identify, Search)
	m.terms = t
	return m.run()
}

// Admitted is the answer to Admit.
func (m *Machine) Admitted() Action {
	m.answered(Admit)
	return m.run()
}

// Verified is the answer to Verify when the credentials are right. reply is the
// token that goes back to the client, if it sent one.
func (m *Machine) Verified(reply []byte) Action {
	m.answered(Verify)
	m.answer, m.denied = reply, nil
	return m.run()
}

// Denied is the answer to Verify or Agree when they are not. err wraps
// ErrCredentials.
func (m *Machine) Denied(err error) Action {
	m.answeredEither(Verify, Agree)
	m.answer, m.denied = nil, err
	return m.run()
}

// Agreed is the answer to Agree: what the client is told, and whether the level
// protects what comes after it.
func (m *Machine) Agreed(answer []byte, protects bool) Action {
	m.answered(Agree)
	m.answer, m.protect, m.denied = answer, protects, nil
	return m.run()
}

// Protected is the answer to Protect.
func (m *Machine) Protected() Action {
	m.answered(Protect)
	return m.run()
}

// Allowed is the answer to Decide.
func (m *Machine) Allowed() Action {
	m.answered(Decide)
	return m.run()
}

// Dialed is the answer to Dial. bound is our end of the connection, or what an
// upstream says is its.
func (m *Machine) Dialed(bound netip.AddrPort) Action {
	m.answered(Dial)
	m.bound = bound
	return m.run()
}

// Failure is what an error means to the client.
type Failure struct {
	// Code is what a client of SOCKS is told.
	Code wire.ReplyCode
	// HTTP is what one of HTTP is told; without a Status, nothing. The challenges
	// of a 407 are added to it.
	HTTP httpproxy.Refusal
}

// Failed is the answer to Explain, and to Decide and Dial when the request is
// not carried out.
func (m *Machine) Failed(f Failure) Action {
	if m.asked != Explain {
		m.answeredEither(Decide, Dial)
		m.words, m.owed = (*Machine).refusal, true
	}
	m.failure, m.next = f, nil
	if m.words != nil {
		m.out = m.words(m)
	}
	return m.ask(Refuse)
}

// Protocol is what the client speaks; wire.ProtocolUnknown until it has said so.
func (m *Machine) Protocol() wire.Protocol {
	if m.protocol == nil {
		return wire.ProtocolUnknown
	}
	return m.protocol.name
}

// Request is what the client asks for, once it has: with Decide and what comes
// after that. With Refuse it is as much as was understood.
func (m *Machine) Request() wire.Request { return m.request }

// Attempt is what Verify is about. Whoever judges it sets source and listener,
// and clears a password afterwards.
func (m *Machine) Attempt() *authsvc.Attempt { return &m.attempt }

// Token is what Agree is about: the client's message with a level.
func (m *Machine) Token() []byte { return m.token }

// Answer is our token for a client of HTTP that logged in by one.
func (m *Machine) Answer() []byte { return m.answer }

// Output is what Write and Refuse send, valid until the next answer.
func (m *Machine) Output() []byte { return m.out }

// Unread is what the client has sent ahead, valid until the next answer.
func (m *Machine) Unread() []byte { return m.in }

// TakeUnread is a copy of Unread that the machine does not hold any more.
func (m *Machine) TakeUnread() []byte {
	ahead := slices.Clone(m.in)
	m.take(len(m.in))
	return ahead
}

// Err is what Explain is about, and why the handshake was refused.
func (m *Machine) Err() error { return m.err }

// Owed reports that the client's request was understood, so that what Refuse
// sends is the reply to it.
func (m *Machine) Owed() bool { return m.owed }

// AppendReply appends what tells the client how its request ended, the first
// time or, for BIND, the second.
func (m *Machine) AppendReply(b []byte, code wire.ReplyCode, bound netip.AddrPort) []byte {
	return m.protocol.reply(b, m, code, bound)
}
