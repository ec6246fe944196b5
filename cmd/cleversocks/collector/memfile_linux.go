package collector

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// sendAsFile hands a message that is too big for a datagram to journald as a file
// in memory, whose descriptor is all that is sent. It is sealed: journald reads
// nothing that could change under it.
func sendAsFile(conn net.Conn, message []byte) (err error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return unix.EMSGSIZE
	}
	fd, err := unix.MemfdCreate("cleversocks-record", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	for rest := message; len(rest) > 0; {
		n, err := unix.Write(fd, rest)
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	const all = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, all); err != nil {
		return err
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	// A datagram without a byte, as sd_journal_sendv(3) does. Go's WriteMsgUnix wants
	// a socket that is not connected for that.
	var sent error
	err = raw.Write(func(to uintptr) bool {
		sent = unix.Sendmsg(int(to), nil, unix.UnixRights(fd), nil, 0)
		return !errors.Is(sent, unix.EAGAIN)
	})
	return errors.Join(err, sent)
}
