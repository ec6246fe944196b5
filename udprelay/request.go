package udprelay

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"cleversocks/aclsvc"
	"cleversocks/authsvc"
	"cleversocks/conn/wire"
)

// ErrDenied is what an error of Request.Resolve or Complete is, too, where the
// rules refuse the name.
var ErrDenied = errors.New("denied by the rules")

// Request is one UDP ASSOCIATE request and what its connection knows.
type Request struct {
	// ID is the connection's, for logs.
	ID string
	// Control is the connection that carried the request. Serve reads and
	// discards what comes on it, ends with it, and leaves it open.
	Control Control
	// Client is where the client is, after any PROXY header. Only its address
	// matters; invalid (a client on a unix socket) stands for loopback.
	Client netip.AddrPort
	// Requested is DST of the request: by the RFC the client's own source, in
	// practice often the target. It is for the log alone.
	Requested wire.Addr
	Identity  authsvc.Identity

	// Advertise is the address told to the client instead of the control
	// connection's local one, for servers behind NAT. May be invalid.
	Advertise netip.Addr

	// Decide judges a destination: as requested, and the address it came to
	// (equal for an IP destination, invalid where an upstream resolves).
	Decide func(dest wire.Addr, addr netip.Addr) aclsvc.Decision
	// Generation numbers the rules that Decide goes by. When it moves,
	// remembered decisions are dropped and open return paths judged again.
	// Nil: the rules never change.
	Generation func() uint64
	// Complete turns a relative name into the one that answers for it, by the
	// system's search list, and denies what may not be asked for. Decide and
	// Resolve are given what it returns. It is called as Resolve is. Nil: every
	// name is complete.
	Complete func(ctx context.Context, dest wire.Addr) (wire.Addr, error)
	// Resolve finds the addresses of dest.Name, in the order to try them. It is
	// called on a goroutine of its own and must end with ctx. It has the port
	// so that it can deny before it asks, by an error that is ErrDenied, too.
	Resolve func(ctx context.Context, dest wire.Addr) ([]netip.Addr, error)
	// Reply writes the SOCKS reply; it is called exactly once.
	Reply func(code wire.ReplyCode, bound netip.AddrPort) error

	// Meter is asked about each datagram's payload before it moves. Nil
	// passes everything. It must not block.
	Meter func(d Direction, bytes int) MeterVerdict
	// Listen opens a socket towards destinations, network "udp4" or "udp6",
	// with the egress address and options that apply, and where the last one
	// was, if that is valid and free. Nil: any address.
	Listen func(ctx context.Context, network string, last netip.AddrPort) (*net.UDPConn, error)
	// Upstream, if not nil, associates with a SOCKS5 upstream that datagrams of
	// this association go through; it is called for each of the client's ports,
	// the first time before the reply. Names are then not resolved here.
	Upstream func(ctx context.Context) (Upstream, error)
	// Protect, if not nil, wraps what goes to the client and unwraps what comes
	// from it, header and payload. It is called from several goroutines.
	Protect Protection
	// Flow, if not nil, is told what each destination has moved, when it is idle
	// and at the end. It must not block.
	Flow func(*Flow)
	// ReplyCode maps an error of Upstream. Nil: general failure.
	ReplyCode func(error) wire.ReplyCode
}

// Protection is how a client's datagrams are protected (RFC 1961 §5).
type Protection interface {
	// WrapDatagram appends a datagram's message to dst; nothing, if it is too
	// large for one.
	WrapDatagram(dst, datagram []byte) []byte
	// UnwrapDatagram is the datagram in a message, in the message's memory.
	UnwrapDatagram(message []byte) ([]byte, error)
}

// Control is what an association needs of its control connection.
type Control interface {
	io.Reader
	SetReadDeadline(t time.Time) error
	LocalAddr() net.Addr
}

// Upstream is an association at a SOCKS5 upstream.
type Upstream struct {
	// Relay is where it takes datagrams.
	Relay netip.AddrPort
	// Control is the connection that keeps the association alive. Serve reads
	// it, ends when it ends, and closes it.
	Control net.Conn
}

// Direction is which way a datagram goes.
type Direction uint8

// The directions.
const (
	FromClient Direction = iota
	ToClient
)

// MeterVerdict is what becomes of a metered datagram.
type MeterVerdict uint8

// The verdicts.
const (
	MeterPass MeterVerdict = iota
	MeterDrop              // over the bandwidth: UDP has no other way to slow a sender
	MeterEnd               // the quota is used up: the association ends
)

// Result is what an association came to.
type Result struct {
	Reply wire.ReplyCode
	Bound netip.AddrPort // told to the client; invalid when refused
	// Cause is one of package cause. When ctx ended it is cause.Drained, and
	// Err is context.Cause(ctx), by which the caller may know better.
	Cause string
	Err   error

	BytesIn, BytesOut         int64 // payload from and to the client
	DatagramsIn, DatagramsOut int64
}
