package transparent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
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

// ListenDatagrams opens one. Another process, a predecessor or a successor, may
// have one of the same address: then each gets some clients.
func ListenDatagrams(ctx context.Context, address string) (*Datagrams, error) {
	c, err := listen(ctx, address, func(fd int) error {
		if err := SetOptions(fd, TPROXY); err != nil {
			return err
		}
		err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVORIGDSTADDR, 1)
		if domain, domainErr := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && domainErr == nil && domain == unix.AF_INET6 {
			err = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR, 1)
		}
		return errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	})
	if err != nil {
		return nil, err
	}
	return &Datagrams{conn: c, oob: make([]byte, unix.CmsgSpace(unix.SizeofSockaddrInet6)*2)}, nil
}

// ReplyFrom opens a socket that datagrams leave from with an address that is not
// this host's: the one that a client has sent to. What comes for that address
// still goes to Datagrams.
func ReplyFrom(ctx context.Context, from netip.AddrPort) (*net.UDPConn, error) {
	return listen(ctx, from.String(), func(fd int) error {
		return errors.Join(SetOptions(fd, TPROXY), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	})
}

func listen(ctx context.Context, address string, prepare func(fd int) error) (*net.UDPConn, error) {
	network := "udp"
	if at, err := netip.ParseAddrPort(address); err == nil && at.Addr().Is4() {
		network = "udp4" // net.Listen would open [::] for 0.0.0.0
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) { err = prepare(int(fd)) }), err)
	}}
	socket, err := lc.ListenPacket(ctx, network, address)
	if err != nil {
		return nil, err
	}
	udp, ok := socket.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("a socket for datagrams is a %T", socket), socket.Close())
	}
	return udp, nil
}

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

// SetReadDeadline bounds a Read.
func (d *Datagrams) SetReadDeadline(t time.Time) error { return d.conn.SetReadDeadline(t) }

// Close closes the socket, which ends a Read.
func (d *Datagrams) Close() error { return d.conn.Close() }
