package listener

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"cleversocks/conn/netaddr"
)

// systemdPrefix begins the address of sockets that systemd opens.
const systemdPrefix = "systemd:"

// IsSystemd reports whether an address stands for sockets that systemd opens.
func IsSystemd(address string) bool { return strings.HasPrefix(address, systemdPrefix) }

// adopt takes over sockets that another process has opened, and gives them the
// options that our own have.
func (l *Listener) adopt(files []*os.File) error {
	for _, f := range files {
		opened, err := Inherit(f)
		if err != nil {
			return err
		}
		s, ok := opened.(socket)
		if !ok {
			return fmt.Errorf("%T is no listener of ours", opened) // see Inherit
		}
		if tcp, isTCP := opened.(*net.TCPListener); isTCP {
			s = newTCPSocket(tcp, l.options.Lasting)
		}
		l.sockets = append(l.sockets, s)
		if netaddr.Of(s.Addr()).IsValid() != netaddr.Of(l.sockets[0].Addr()).IsValid() {
			return errors.New("unix sockets and others were passed under one name: give them two, and a listener each")
		}
		if err := l.suit(s); err != nil {
			return err
		}
	}
	if !l.options.Lasting {
		l.options.Inherited = nil // which end with this call
	}
	if path, isUnix := UnixPath(l.options.Address); isUnix && path[0] != '@' {
		l.file.path = path
		var err error
		if l.file.info, err = os.Lstat(path); err != nil {
			return err
		}
		return l.file.grant(l.options.File)
	}
	return nil
}

// suit sets the options of a socket that is not our own work.
func (l *Listener) suit(s socket) error {
	if u, isUnix := s.(*net.UnixListener); isUnix {
		u.SetUnlinkOnClose(false) // see socketFile.remove
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	o := l.options
	o.Shards = 1 // what shares its port was settled when it was bound
	return setSocketOptions(raw, o)
}

// Inherit makes a listener of an inherited descriptor, which stays the
// caller's. The error says what it is instead of a stream socket that listens.
func Inherit(f *os.File) (net.Listener, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var unfit error
	if err := raw.Control(func(fd uintptr) { unfit = unfitness(int(fd)) }); err != nil {
		return nil, err
	}
	if unfit != nil {
		return nil, unfit
	}
	return net.FileListener(f)
}

// unfitness says why nothing can be accepted from a descriptor.
func unfitness(fd int) error {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return fmt.Errorf("what was passed is no socket: %w", err)
	}
	switch kind {
	case unix.SOCK_STREAM:
	case unix.SOCK_DGRAM:
		return errors.New("what was passed is a datagram socket, and not one that connections come to: ListenStream= in the socket unit, and not ListenDatagram=")
	default:
		return fmt.Errorf("what was passed is a socket of type %d, and not one that connections come to: ListenStream= in the socket unit", kind)
	}
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	if family != unix.AF_INET && family != unix.AF_INET6 && family != unix.AF_UNIX {
		return fmt.Errorf("what was passed is a socket of address family %d: IPv4, IPv6 and unix are served", family)
	}
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return err
	}
	if listens == 0 {
		return errors.New("what was passed is a connection, and not a socket that listens: Accept=no in the socket unit")
	}
	return nil
}

// Pass leaves the sockets and their file to another process, which has them
// too: closing them here takes nothing from it. TakeBack undoes that.
func (l *Listener) Pass() { l.passed.Store(true) }

// TakeBack is for a listener whose sockets nobody else has after all.
func (l *Listener) TakeBack() { l.passed.Store(l.options.Lasting) }

// Conns are the sockets, as something to make duplicates of.
func (l *Listener) Conns() []syscall.Conn {
	all := make([]syscall.Conn, len(l.sockets))
	for i, s := range l.sockets {
		all[i] = s
	}
	return all
}

// File is what the path of a unix socket led to when it was made; nil: there is
// no file.
func (l *Listener) File() os.FileInfo { return l.file.info }

// IsUnix reports whether clients come through a unix socket.
func (l *Listener) IsUnix() bool { return !l.Addr().IsValid() }
