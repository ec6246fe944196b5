package adopt

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Duplicate is one more descriptor of an open file, which no program that is started
// gets; it is the caller's. Both share whether the file blocks.
func Duplicate(fd int) (int, error) {
	other, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("fcntl", err)
	}
	return other, nil
}

// DuplicateOf does so with a conn, a listener or a file, and leaves alone whether it
// blocks, which the File methods of these do not.
func DuplicateOf(c syscall.Conn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	controlErr := raw.Control(func(own uintptr) { fd, err = Duplicate(int(own)) })
	return fd, errors.Join(controlErr, err)
}
