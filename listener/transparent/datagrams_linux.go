package transparent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cleversocks/conn/netaddr"
)

// Datagrams is a socket that a packet filter's tproxy gives the datagrams of
// others to. Their own addresses are theirs: where they came from, and where they
// go.
type Datagrams struct {
	conn *net.UDPConn
	oob  []byte
}

// ListenDatagrams opens one.
func ListenDatagrams(ctx context.Context, address string) (*Datagrams, error) {
	network := "udp"
	if at, err := netip.ParseAddrPort(address); err == nil && at.Addr().Is4() {
		network = "udp4" // net.Listen would open [::] for 0.0.0.0
	}
	lc := net.ListenConfig{Control: prepared(func(fd int) error {
		err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVORIGDSTADDR, 1)
		if domain, domainErr := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && domainErr == nil && domain == unix.AF_INET6 {
			err = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR, 1)
		}
		return errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	})}
	socket, err := lc.ListenPacket(ctx, network, address)
	return datagramsOf(socket, err)
}

// InheritDatagrams is one that a predecessor has opened, and has prepared. The
// file stays the caller's.
func InheritDatagrams(f *os.File) (*Datagrams, error) {
	socket, err := net.FilePacketConn(f)
	return datagramsOf(socket, err)
}

func datagramsOf(socket net.PacketConn, err error) (*Datagrams, error) {
	if err != nil {
		return nil, err
	}
	udp, ok := socket.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("a socket for datagrams is a %T", socket), socket.Close())
	}
	return &Datagrams{conn: udp, oob: make([]byte, unix.CmsgSpace(unix.SizeofSockaddrInet6)*2)}, nil
}

// prepared is a Control that sets the options of TPROXY, and others.
func prepared(more func(fd int) error) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) { err = errors.Join(SetOptions(int(fd), TPROXY), more(int(fd))) }), err)
	}
}

// Flow is a socket that stands for a destination towards one client: what is
// sent leaves with the destination's address, which is not this host's. What the
// client sends there comes to it from now on, and to no Datagrams, whoever has
// those: the packet filter looks for a connected socket first.
type Flow struct {
	conn *net.UDPConn
	raw  syscall.RawConn
}

// NewFlow opens one.
func NewFlow(ctx context.Context, dest, client netip.AddrPort) (*Flow, error) {
	dialer := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(dest), Control: prepared(func(fd int) error {
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	})}
	c, err := dialer.DialContext(ctx, "udp", client.String())
	if err != nil {
		return nil, err
	}
	udp, ok := c.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("a socket for datagrams is a %T", c), c.Close())
	}
	raw, err := udp.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, udp.Close())
	}
	return &Flow{udp, raw}, nil
}

// buffers are shared, as most flows wait for most of their time.
var buffers = sync.Pool{New: func() any { return new([1 << 16]byte) }}

// Receive waits for a datagram of the client. The error is net.ErrClosed, or
// about one datagram.
func (f *Flow) Receive() (payload []byte, err error) {
	closed := f.raw.Read(func(fd uintptr) bool {
		buf, _ := buffers.Get().(*[1 << 16]byte)
		defer buffers.Put(buf)
		n, _, failed := unix.Recvfrom(int(fd), buf[:], 0)
		if errors.Is(failed, unix.EAGAIN) || errors.Is(failed, unix.EINTR) {
			return false
		}
		payload, err = bytes.Clone(buf[:max(n, 0)]), failed
		return true
	})
	if closed != nil {
		return nil, net.ErrClosed
	}
	return payload, err
}

// Send sends a datagram to the client.
func (f *Flow) Send(payload []byte) error {
	_, err := f.conn.Write(payload)
	return err
}

// Close closes the socket, which ends a Receive.
func (f *Flow) Close() error { return f.conn.Close() }

// Read reads one datagram. It is for one goroutine. dest is not valid when the
// kernel does not tell it.
func (d *Datagrams) Read(b []byte) (n int, client, dest netip.AddrPort, err error) {
	n, oobn, _, client, err := d.conn.ReadMsgUDPAddrPort(b, d.oob)
	if err != nil {
		return n, client, dest, err
	}
	client = netaddr.PlainPort(client)
	messages, err := unix.ParseSocketControlMessage(d.oob[:oobn])
	if err != nil {
		return n, client, dest, nil //nolint:nilerr // a datagram of unknown destination, and no broken socket
	}
	for i := range messages {
		switch at, _ := unix.ParseOrigDstAddr(&messages[i]); at := at.(type) {
		case *unix.SockaddrInet4:
			dest = netip.AddrPortFrom(netip.AddrFrom4(at.Addr), uint16(at.Port))
		case *unix.SockaddrInet6:
			dest = netaddr.PlainPort(netip.AddrPortFrom(netip.AddrFrom16(at.Addr), uint16(at.Port)))
		}
	}
	return n, client, dest, nil
}

// LocalAddr is where it listens.
func (d *Datagrams) LocalAddr() netip.AddrPort { return netaddr.Of(d.conn.LocalAddr()) }

// SyscallConn is the socket, to be passed on.
func (d *Datagrams) SyscallConn() (syscall.RawConn, error) { return d.conn.SyscallConn() }

// SetReadDeadline bounds a Read.
func (d *Datagrams) SetReadDeadline(t time.Time) error { return d.conn.SetReadDeadline(t) }

// Close closes the socket, which ends a Read.
func (d *Datagrams) Close() error { return d.conn.Close() }
