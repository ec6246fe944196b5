// Package handshake is a client's connection from its first byte up to its
// relay, as a machine without I/O: it is fed bytes and answers, and says what to
// do next. It never reads, waits, starts anything or asks a clock, so the same
// machine serves a goroutine that blocks and a reactor that never does, and its
// tests need no socket.
//
//	var m handshake.Machine
//	for action := m.Begin(options); ; {
//		switch action {
//		case handshake.Read:
//			n, err := conn.Read(buf)
//			if err != nil { action = m.Lost(err) } else { action = m.Feed(buf[:n]) }
//		case handshake.Write:
//			_, err := conn.Write(m.Output())
//			...
//		case handshake.Relay:
//			return // m.Unread() goes to the server first
//		}
//	}
package handshake

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"cleversocks/authsvc"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
	"cleversocks/conn/wire/socks5"
)

// Action is what a machine asks of its driver. Each names the methods of which
// one answers it, and gives the next action.
type Action uint8

// The actions. The last six end the machine's work.
const (
	goOn     Action = iota // none: the next step has all that it needs
	Read                   // wait for bytes of the client's: Feed, or Lost
	Write                  // send Output to the client: Written, or Lost
	Identify               // say what is known of the client without a log-in: Identified
	Search                 // ask others whether they know it, which would be refused: Identified
	Admit                  // count a client that need not log in: Admitted
	Verify                 // judge Attempt: Verified, or Denied
	Agree                  // agree on the level of protection that Token asks for: Agreed, or Denied
	Protect                // wrap the connection, TakeUnread is the first of what it unwraps: Protected
	Decide                 // judge Request by rules and limits: Allowed, or Failed
	Dial                   // connect to Request's destination: Dialed, or Failed
	Explain                // say what Err means to the client: Failed

	Bind      // serve BIND, whose replies AppendReply makes
	Associate // serve UDP ASSOCIATE, likewise
	Forward   // serve the plain request Head, and those that follow
	Multiplex // serve HTTP/2, whose preface is Unread
	Relay     // move bytes, beginning with Unread to the server
	Refuse    // send Output, which may be empty, and close: Err says why
)

// String is the action's name, for tests and for the panic of a driver that
// answers what it was not asked.
func (a Action) String() string {
	names := [...]string{
		"go on", "read", "write", "identify", "search", "admit", "verify", "agree", "protect", "decide", "dial", "explain",
		"bind", "associate", "forward", "multiplex", "relay", "refuse",
	}
	if int(a) < len(names) {
		return names[a]
	}
	return fmt.Sprintf("action %d", uint8(a))
}

// Options is what a machine knows of its connection from the beginning.
type Options struct {
	// Spoken are the protocols that may be spoken.
	Spoken []wire.Protocol
	// Transparent is where a packet filter says that the client wants to go: no
	// protocol is spoken then. Invalid: it has to say so itself.
	Transparent netip.AddrPort
	// Inner: the connection is one stream of HTTP/2, and is not HTTP/2 again.
	Inner bool
	// Heads bounds the memory of large HTTP heads; nil: nothing does.
	Heads *httpproxy.Budget
}

// Machine is one connection's handshake. The zero value is ready for Begin, and
// so is a used one. It must not be copied. What it holds of a client's bytes is
// bounded by the longest message of its protocol and one Feed.
type Machine struct {
	options  Options
	protocol *protocol // nil: not a byte has come
	next     step      // where the handshake is
	asked    Action    // what the driver has not answered yet

	in    []byte // what has come and no message has taken yet
	kept  []byte // the memory of in between two calls
	out   []byte // what Write and Refuse send
	small [64]byte

	terms    Terms
	searched bool // others were asked for the client
	offered  socks5.Methods
	attempt  authsvc.Attempt
	denied   error  // why the last Verify or Agree said no; nil: it did not
	token    []byte // the client's, of GSSAPI
	answer   []byte // to a token that was verified, or a level that was agreed on
	protect  bool   // the level protects
	userID   string // of SOCKS4

	http    httpState
	request wire.Request
	bound   netip.AddrPort
	err     error
	words   words // the last ones, to a client that is refused
	failure Failure
	owed    bool // they are a reply to its request
}

// maxKept is the most memory, in bytes, that a machine takes along to its next
// connection.
const maxKept = 4 << 10

// step is one place of the handshake: it takes what it needs of the bytes at
// hand, names the next step, and says what the driver has to do before that.
type step func(*Machine) Action

// words are what a client is told at the end of a handshake that fails, in the
// form that it awaits at that place; nil: nothing.
type words func(*Machine) []byte

// Begin starts over with a new connection.
func (m *Machine) Begin(o Options) Action {
	m.reset(o)
	if o.Transparent.IsValid() {
		m.speak(named(wire.Transparent))
	} else {
		m.next = (*Machine).firstByte
	}
	return m.run()
}

func (m *Machine) reset(o Options) {
	m.attempt.Abandon()
	m.http.heads.Release()
	if m.http.head != nil {
		m.http.head.Release()
	}
	kept := m.kept[:0]
	clear(kept[:cap(kept)]) // it may hold half of a password
	if cap(kept) > maxKept {
		kept = nil
	}
	*m = Machine{options: o, kept: kept, in: kept}
	m.http.heads.Budget = o.Heads
}

// Reset gives back what a head took of the budget, and the place of a log-in that
// nobody has decided, and forgets the connection. A machine that is not used any
// more needs it.
func (m *Machine) Reset() { m.reset(Options{}) }

// firstByte tells the protocol.
func (m *Machine) firstByte() Action {
	if len(m.in) == 0 {
		return Read
	}
	p := spokenBy(m.in[0])
	switch {
	case p == nil:
		return m.fail(fmt.Errorf("%w: first byte %#02x", ErrProtocol, m.in[0]), nil)
	case !slices.Contains(m.options.Spoken, p.name):
		return m.fail(fmt.Errorf("%w: %s is not spoken on this listener", ErrProtocol, p.name), nil)
	}
	m.speak(p)
	return goOn
}

func (m *Machine) speak(p *protocol) { m.protocol, m.next = p, p.first }

// run takes steps until the driver has something to do.
func (m *Machine) run() Action {
	a := goOn
	for a == goOn {
		a = m.next(m)
	}
	return m.ask(a)
}

// ask gives the driver an action, and keeps what it fed.
func (m *Machine) ask(a Action) Action {
	m.asked = a
	switch {
	case len(m.in) == 0 && cap(m.kept) > maxKept:
		m.kept = nil // of a long token, or of more than one
	case len(m.in) > 0 && len(m.in) == len(m.kept) && &m.in[0] == &m.kept[0]:
		return a // there already: a long message may come a byte at a time
	}
	m.kept = append(m.kept[:0], m.in...)
	m.in = m.kept
	return a
}

// take removes what a message took of the bytes at hand.
func (m *Machine) take(n int) { m.in = m.in[n:] }

// write has Output sent before the next step.
func (m *Machine) write(out []byte, next step) Action {
	m.out, m.next = out, next
	return Write
}

// more is what an error of a parser means: that bytes are missing, or the end.
func (m *Machine) more(err error) Action {
	if errors.Is(err, wire.ErrShort) {
		return Read
	}
	return m.fail(err, nil)
}

// verify has the driver judge credentials before the next step.
func (m *Machine) verify(c authsvc.Credentials, optional bool, next step) Action {
	m.attempt = authsvc.Attempt{Credentials: c, Optional: optional}
	m.next = next
	return Verify
}

// search has the driver ask others for a client that has not logged in and would
// be refused; false: they were asked already.
func (m *Machine) search(again step) bool {
	if m.searched {
		return false
	}
	m.searched, m.next = true, again
	return true
}

// admit has the driver count the client before the next step.
func (m *Machine) admit(next step) Action {
	m.next = next
	return Admit
}

// fail ends the handshake with the last words that the client awaits.
func (m *Machine) fail(err error, last words) Action {
	m.err, m.words, m.next = err, last, nil
	return Explain
}

// failRequest ends a handshake whose request was understood.
func (m *Machine) failRequest(err error) Action {
	m.owed = true
	return m.fail(err, (*Machine).refusal)
}

// refusal is the reply to a request that is not served.
func (m *Machine) refusal() []byte {
	return m.AppendReply(m.small[:0], m.failure.Code, netip.AddrPort{})
}

// decide has the request judged.
func (m *Machine) decide() Action {
	m.next = (*Machine).allowed
	return Decide
}

// allowed has the request carried out.
func (m *Machine) allowed() Action {
	switch m.next = (*Machine).dialed; m.request.Command {
	case wire.CommandBind:
		return Bind
	case wire.CommandUDPAssociate:
		return Associate
	default:
		return Dial
	}
}

// dialed tells the client.
func (m *Machine) dialed() Action {
	reply := m.AppendReply(m.small[:0], wire.ReplySucceeded, m.bound)
	if m.next = (*Machine).connected; len(reply) == 0 {
		return goOn
	}
	return m.write(reply, (*Machine).connected)
}

func (m *Machine) connected() Action { return Relay }
