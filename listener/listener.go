// Package listener accepts connections. Sockets are bound before anything
// runs, so that a bad address fails at the start with a clear error; each
// socket then has a service that accepts from it.
//
//	l, err := listener.Open(ctx, listener.Options{Address: "127.0.0.1:1080", ...})
//	for _, accept := range l.Services(group) { supervisor.Add(accept) }
//	...
//	l.Close()
package listener

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cleversocks/conn/adopt"
	"cleversocks/conn/netaddr"
	"cleversocks/listener/transparent"
	"cleversocks/metrics"
)

// Options describe one listener.
type Options struct {
	// Address is "host:port": an IPv4 literal means IPv4 alone, "[::]" both
	// families, another IPv6 literal that address. Port 0 takes a free one.
	// "unix:/path" is a unix socket, "unix:@name" one without a file.
	Address string
	// File is whose the file of a unix socket is, and who may connect.
	File File
	// Inherited are sockets to take over in place of opening any; they stay the
	// caller's.
	Inherited []*os.File
	// Lasting says that somebody else has the sockets too and keeps them: what
	// is queued when they are closed here is the next process's. The address is
	// then a name, and may stand for several sockets.
	Lasting bool
	// Name is what logs and metrics call it; "": the address.
	Name string
	// Shards is how many sockets share the port; above one, SO_REUSEPORT is
	// set on each and the kernel spreads connections.
	Shards int
	// Transparent is for connections that a packet filter turns here.
	Transparent transparent.Mode
	// Sockets are the options that accepted connections inherit; a probe's numbers
	// are then rounded up to seconds.
	Sockets    adopt.Options
	Congestion string // TCP_CONGESTION, likewise; "" leaves the system's

	Log     *slog.Logger
	Metrics *metrics.Registry
}

// Handler takes accepted connections. A refusal is a reason for the metric
// (metrics.Refused*), and the connection then stays the caller's.
type Handler interface {
	Admit(c net.Conn, listener string) (refused string)
	// TurnedAway hears of a connection that the listener itself has refused. It
	// does not keep c, and must not wait.
	TurnedAway(c net.Conn, listener, reason string)
}

// Reactive is a Handler that may accept by itself, with less than a goroutine for
// each connection.
type Reactive interface {
	Handler
	// AcceptFrom accepts a socket's connections until ctx ends, closed is closed,
	// or accepting fails. leave gives it a descriptor of the socket, which it
	// closes, and has the caller leave the socket alone meanwhile; shared says that
	// another program has it too. count is told of each connection, with the reason
	// of a refusal; what is refused is reset. The error is errors.ErrUnsupported if
	// the caller has to accept, for now at least.
	AcceptFrom(ctx context.Context, closed <-chan struct{}, leave func() (fd int, shared bool, err error), listener string, count func(refused string)) error
}

// Listener is one configured address: bound, and in use until Close.
type Listener struct {
	options Options
	sockets []socket
	file    socketFile                    // of a unix socket
	told    atomic.Pointer[adopt.Options] // for connections that package net accepts
	closed  bool
	closing chan struct{} // is closed before the sockets are
	// reacting is held for reading while the handler accepts by itself: a port is
	// free once Close has returned.
	reacting sync.RWMutex
	// passed: another process accepts from the sockets now, or from them too.
	passed atomic.Bool
}

// socket is what connections are accepted from: of TCP, or a unix socket.
type socket interface {
	net.Listener
	syscall.Conn
	SetDeadline(t time.Time) error
}

// leaver is a socket that others can accept from, which Go's poller leaves alone
// then.
type leaver interface {
	Leave() (fd int, err error)
	Shared() bool // another program has it too
}

// Open binds the address. What it returns must be closed.
func Open(ctx context.Context, o Options) (*Listener, error) {
	l := &Listener{options: o, closing: make(chan struct{})}
	l.tell(o)
	l.passed.Store(o.Lasting)
	if len(o.Inherited) > 0 {
		if err := l.adopt(o.Inherited); err != nil {
			l.closeSockets()
			return nil, fmt.Errorf("listener %s: %w", o.Address, err)
		}
		return l, nil
	}
	if path, ok := UnixPath(o.Address); ok {
		socket, file, err := openUnix(ctx, path, o.File)
		if err != nil {
			return nil, fmt.Errorf("listener %s: %w", o.Address, err)
		}
		l.sockets, l.file = append(l.sockets, socket), file
		return l, nil
	}
	address := o.Address
	for range max(o.Shards, 1) {
		socket, err := open(ctx, address, o)
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("listener %s: %w", o.Address, explain(err))
		}
		l.sockets = append(l.sockets, newTCPSocket(socket, false))
		address = socket.Addr().String() // port 0 is chosen once for all shards
	}
	return l, nil
}

func open(ctx context.Context, address string, o Options) (*net.TCPListener, error) {
	config := net.ListenConfig{
		Control: func(_, _ string, c rawConn) error { return setSocketOptions(c, o) },
		// Accepted sockets inherit these from the listening one: once here
		// instead of four system calls for every connection.
		KeepAlive:       -1,
		KeepAliveConfig: net.KeepAliveConfig{Enable: false},
	}
	config.SetMultipathTCP(false)
	socket, err := config.Listen(ctx, network(address), address)
	if err != nil {
		return nil, err
	}
	tcp, ok := socket.(*net.TCPListener)
	if !ok {
		socket.Close()
		return nil, fmt.Errorf("%T is no TCP listener", socket)
	}
	return tcp, nil
}

// Check says why this process could not listen where o says, whoever has the
// port at the moment. It binds a datagram socket, which meets the same rules
// and turns no client away.
func Check(ctx context.Context, o Options) error {
	if IsSystemd(o.Address) {
		return nil // it is there when systemd starts the daemon
	}
	if path, isUnix := UnixPath(o.Address); isUnix {
		return checkUnix(path)
	}
	config := net.ListenConfig{Control: func(_, _ string, c rawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = transparent.SetOptions(int(fd), o.Transparent) }), err)
	}}
	socket, err := config.ListenPacket(ctx, strings.Replace(network(o.Address), "tcp", "udp", 1), o.Address)
	switch {
	case err == nil:
		return socket.Close()
	case strings.Contains(err.Error(), "address already in use"):
		return nil
	}
	return explain(err)
}

// network keeps "0.0.0.0" from opening "[::]": an IPv4 literal means IPv4.
func network(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return "tcp"
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return "tcp"
	case ip.Is4():
		return "tcp4"
	case ip.IsUnspecified():
		return "tcp"
	}
	return "tcp6"
}

// Addr is the address that is really bound, of the first socket; invalid: a
// unix socket's.
func (l *Listener) Addr() netip.AddrPort { return netaddr.Of(l.sockets[0].Addr()) }

// Addrs are the addresses that are really bound, without unix sockets'.
func (l *Listener) Addrs() []netip.AddrPort {
	var all []netip.AddrPort
	for _, s := range l.sockets {
		if at := netaddr.Of(s.Addr()); at.IsValid() {
			all = append(all, at)
		}
	}
	return all
}

// Name is how rules, logs and metrics call the listener: its name, or Address.
func (l *Listener) Name() string { return cmp.Or(l.options.Name, l.Address()) }

// Address is the configured address, with the real port where it was 0.
func (l *Listener) Address() string {
	if host, port, err := net.SplitHostPort(l.options.Address); err == nil && port == "0" {
		return net.JoinHostPort(host, fmt.Sprint(l.Addr().Port()))
	}
	return l.options.Address
}

// Shards is how many sockets accept.
func (l *Listener) Shards() int { return len(l.sockets) }

// Close closes the sockets; services that accept from them end.
func (l *Listener) Close() {
	if !l.closed {
		close(l.closing)
		l.reacting.Lock()
		defer l.reacting.Unlock()
	}
	l.closed = true
	if !l.passed.Load() {
		l.file.remove() // while the socket is open nobody else takes the path
	}
	l.closeSockets()
}

func (l *Listener) closeSockets() {
	for _, s := range l.sockets {
		s.Close()
	}
}

// Closed reports whether Close was called. It is for the goroutine that
// calls Close.
func (l *Listener) Closed() bool { return l.closed }

// FileIsGone reports whether somebody has removed the file of a unix socket, so
// that nobody can connect.
func (l *Listener) FileIsGone() bool { return !l.closed && l.file.isGone() }

// Reopen binds the address of a listener once more that is closed, or whose file
// is gone.
func (l *Listener) Reopen(ctx context.Context) (*Listener, error) {
	o := l.options
	o.Address = l.Address()
	again, err := Open(ctx, o)
	if err != nil {
		return nil, err
	}
	again.options.Address = l.options.Address
	return again, nil
}

// SetOptions changes the socket options that connections accepted from now on
// inherit. Address, shards and
// transparency stay.
func (l *Listener) SetOptions(o Options) error {
	o.Address, o.Shards, o.Transparent = l.options.Address, l.options.Shards, l.options.Transparent
	o.Inherited, o.Lasting = l.options.Inherited, l.options.Lasting
	before := l.options.Congestion
	l.options = o
	if !l.Addr().IsValid() {
		return l.file.grant(o.File)
	}
	l.tell(o)
	if o.Congestion == "" && before != "" {
		var err error
		if o.Congestion, err = systemCongestion(); err != nil {
			return fmt.Errorf("the system's congestion control: %w", err)
		}
	}
	for _, s := range l.sockets {
		raw, err := s.SyscallConn()
		if err != nil {
			return err
		}
		if err := setSocketOptions(raw, o); err != nil {
			return err
		}
	}
	return nil
}

// tell says what package net must not decide about the connections that it accepts:
// it sets TCP_NODELAY, and keepalive where the socket was made of a descriptor.
func (l *Listener) tell(o Options) {
	l.told.Store(&o.Sockets)
}

// Services are the accept services, one a socket, which hand what they accept
// to h. They may be restarted: the sockets are the Listener's.
func (l *Listener) Services(h Handler) []*Service {
	services := make([]*Service, 0, len(l.sockets))
	for i, socket := range l.sockets {
		name := l.Name()
		if len(l.sockets) > 1 {
			name = fmt.Sprintf("%s#%d", name, i)
		}
		services = append(services, &Service{
			name: name, listener: l.Name(), told: &l.told, passed: &l.passed, closing: l.closing, reacting: &l.reacting, socket: socket, handler: h, log: l.options.Log,
			accepted: l.options.Metrics.Listener.Accepted(l.Name()),
			refused:  l.options.Metrics.Listener.Refused,
		})
	}
	return services
}

// explain says what to do about the usual mistakes. Which call met them, and
// with which address, is said already.
func explain(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	if call, ok := errors.AsType[*os.SyscallError](err); ok {
		err = call.Err
	}
	switch text := err.Error(); {
	case strings.Contains(text, "address already in use"):
		return fmt.Errorf("%w: another program listens there; choose another port, or stop it", err)
	case strings.Contains(text, "permission denied"):
		return fmt.Errorf("%w: ports below 1024 need CAP_NET_BIND_SERVICE", err)
	case strings.Contains(text, "cannot assign requested address"):
		return fmt.Errorf("%w: no interface of this machine has that address", err)
	}
	return err
}
