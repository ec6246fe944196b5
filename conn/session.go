package conn

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"cleversocks/authsvc"
	"cleversocks/conn/relay"
	"cleversocks/conn/upstream"
	"cleversocks/conn/wire"
	"cleversocks/listener/tlsconf"
)

// levelTrace is below debug: every step of a handshake.
const levelTrace = slog.LevelDebug - 4

// session is one client connection from accept to its access record. Its
// fields are written by the one goroutine that has it at the time: the
// handshake's, then the relay's.
type session struct {
	id       uint64
	socket   net.Conn // as accepted: for deadlines and resets, from any goroutine
	conn     net.Conn // what the client speaks over, once it is through the door
	raw      rawEnds  // in their place, while a reactor serves the session
	listener string
	client   netip.AddrPort // unmapped; not valid on a unix socket
	entry    *entry         // is what the listener's door knows more; nil: nothing
	// forwarded says that the peer may pass on other clients' connections, and
	// that the door has not told yet whose this one is. The limits by source wait
	// until then.
	forwarded bool
	entered   bool // the guards have counted the client: see Guards.leave
	inner     bool // this is a stream of an HTTP/2 connection, which has passed the door
	revocable bool // tells reloads to look at the session; the group's mutex guards it
	replied   bool
	toldByTLS bool // a refused client has TLS's own word for it
	code      wire.ReplyCode
	started   time.Time

	ctx   context.Context //nolint:containedctx // is the session's scope, or that of the session whose request it is
	scope scope

	policy   *Policy // nil once there is a tunnel
	protocol wire.Protocol
	identity authsvc.Identity
	request  wire.Request

	server net.Conn // is there after a successful dial; nil again, as conn and socket, when a tunnel has it
	// named is the destination by its full name, where a search list completed
	// the one that was asked for; nil: none did. asked are such names of an
	// association's datagrams.
	named *wire.Addr
	asked askedNames
	// dest is the destination that was judged last, where it is not what was asked
	// for: see judged and reached.
	dest   *wire.Addr
	hostIP netip.AddrPort // is the address that was dialed
	local  netip.AddrPort // is our end of that connection
	rule   string
	hop    *hop   // is the upstream on the way; nil: there is none
	method string // is a plain HTTP request's
	// sniffed is the name of the server in what the client said first; "": none,
	// or nobody looks.
	sniffed string

	charge   charge // is what the session takes of its user
	counters relay.Counters
	stage    atomic.Uint32 // is how far the handshake is: see deadlines
	cutAfter atomic.Int32  // is how long after its begin a handshake ends that was cut short, in milliseconds; 0: it was not
	relaying atomic.Bool   // is set when the handshake's fields no longer change
	// waiting is a BIND that waits for its peer: nobody may read yet what is known
	// of that (rule, hostIP, dest, code).
	waiting atomic.Bool
	// leaves is of a session that carries one request after the other; nil: it
	// does not.
	leaves atomic.Pointer[leaving]
	cause  string // is one of package cause; empty for a probe, which is not recorded
	err    error
	ended  atomic.Bool // says that Group.end has run

	// The mutex of Handler.handshakes guards these.
	handshakes *handshakeSource // are those of the client's source; nil: this one is over
	older      *session         // is the one that began before it, of the same source; nil: it is the oldest
	newer      *session
	evicted    bool
}

// What follows is of few sessions, and all of them are kept in thousands: each has
// its place where it is needed alone.

// entry is what a listener's door knows of a session's client.
type entry struct {
	peer string // names a client without an address: see caller
	// localUser is that client, as a source among others: a netaddr.LocalUser.
	localUser netip.Addr
	proof     *tlsconf.Proof // is the client's certificate; nil: it has shown none
	// reachedAt is where the client connected to, as a PROXY header said; not
	// valid: at the socket's own address. See origin and here.
	reachedAt netip.AddrPort
	vouched   *authsvc.Identity // is who the client is, if the door knows
	notes     []string          // are for the record
}

// atDoor is what the door knows of the client.
func (s *session) atDoor() entry {
	if s.entry == nil {
		return entry{}
	}
	return *s.entry
}

// note is where to note what the door knows.
func (s *session) note() *entry {
	if s.entry == nil {
		s.entry = new(entry)
	}
	return s.entry
}

// hop is the upstream that a session goes through.
type hop struct {
	name  string         // is "name" or "name/member"
	bound netip.AddrPort // is the address that it has bound, if it told
	// parent is the proxy that a plain HTTP request goes to in absolute-form; nil:
	// it goes to its server.
	parent *upstream.Parent
	// leave tells its pool that the tunnel has ended; nil: none is in use.
	leave func()
}

// via is the upstream that the session goes through, the zero hop for none.
func (s *session) via() hop {
	if s.hop == nil {
		return hop{}
	}
	return *s.hop
}

// judged notes the destination that was judged: the full name, what a forwarding
// rule wrote in its place, or the peer of a BIND.
func (s *session) judged(dest wire.Addr) {
	if s.dest = nil; dest != s.request.Dest && !dest.IsZero() {
		other := dest // what is kept is rare, and all else stays off the heap
		s.dest = &other
	}
}

// abandon closes what a session has open, after a panic.
func (s *session) abandon() {
	if s.conn != nil {
		s.conn.Close()
	}
	if s.server != nil {
		s.server.Close()
	}
	s.closeRaw()
}

// leave tells the upstream's pool that the tunnel has ended.
func (s *session) leave() {
	if leave := s.via().leave; leave != nil {
		leave()
	}
}

// source is whom bans, queues and limits count the client as: its address, or
// the local user at the other end of a unix socket; invalid: nobody yet.
func (s *session) source() netip.Addr {
	if s.client.IsValid() {
		return s.client.Addr()
	}
	return s.atDoor().localUser
}

// caller is who the client is, in words: its address, or what its unix socket
// tells.
func (s *session) caller() string { return caller(s.client, s.atDoor().peer) }

func caller(client netip.AddrPort, peer string) string {
	if client.IsValid() {
		return client.String()
	}
	return cmp.Or(peer, "unix")
}

// ID is the connection's id in logs.
func (s *session) ID() string { return strconv.FormatUint(s.id, 36) }

// logger adds the connection's id to every line, or is nil when the level is
// off: most connections never log, so none pays for it.
func (s *session) logger(base *slog.Logger, level slog.Level) *slog.Logger {
	if !base.Enabled(s.ctx, level) {
		return nil
	}
	return base.With("id", s.ID(), "client", s.caller())
}
