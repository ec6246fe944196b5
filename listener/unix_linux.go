package listener

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setFileMode sets the mode that the kernel gives the file of a unix socket
// when it is bound, so that there is no moment in which others may connect.
func setFileMode(c rawConn, mode uint32) error {
	var err error
	if controlErr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), mode) }); controlErr != nil {
		return controlErr
	}
	return err
}

// lockPatience is how long somebody else may hold the lock of the directory: it
// can be anybody who reads the directory, and so must keep no daemon away.
const lockPatience = 2 * time.Second

// lockDirectory keeps other daemons from opening sockets in the directory of
// path, until unlock.
func lockDirectory(ctx context.Context, path string) (unlock func()) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return func() {} // without a lock, as if alone
	}
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	retry := time.NewTicker(10 * time.Millisecond)
	defer retry.Stop()
	for syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		select {
		case <-retry.C:
			continue
		case <-ctx.Done():
		}
		break
	}
	return func() { _ = dir.Close() }
}
