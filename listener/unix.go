package listener

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// unixPrefix begins the address of a unix socket.
const unixPrefix = "unix:"

// UnixPath is the path of a unix socket's address, or "@name" of one that has
// no file; ok is false for the addresses of TCP.
func UnixPath(address string) (path string, ok bool) { return strings.CutPrefix(address, unixPrefix) }

// File is what the file of a unix socket is to be like. To connect takes the
// right to write to it.
type File struct {
	Mode     fs.FileMode // permission bits
	UID, GID int         // -1: as the daemon makes it
}

// closedMode lets nobody but the daemon's own user connect.
const closedMode = 0o600

// openUnix listens on a unix socket. What a daemon that has ended left at the
// path is replaced; the error is EADDRINUSE when somebody answers there. Nobody
// else can connect before the file is theirs.
func openUnix(ctx context.Context, path string, file File) (socket, socketFile, error) {
	if !strings.HasPrefix(path, "@") {
		// Of two daemons that find the same dead socket at the same time, the
		// second must not take away the file of the first.
		defer lockDirectory(ctx, path)()
		if err := clearUnix(ctx, path); err != nil {
			return nil, socketFile{}, err
		}
	}
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error { return setFileMode(raw, closedMode) }}
	opened, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, socketFile{}, explainUnix(explain(err))
	}
	l := opened.(*net.UnixListener) // what Listen on "unix" returns
	if strings.HasPrefix(path, "@") {
		return l, socketFile{}, nil
	}
	l.SetUnlinkOnClose(false) // see socketFile.remove
	made := socketFile{path: path}
	if made.info, err = os.Lstat(path); err == nil {
		err = made.grant(file)
	}
	if err != nil {
		made.remove()
		_ = l.Close()
		return nil, socketFile{}, err
	}
	return l, made, nil
}

// clearUnix removes the file of a socket that nobody listens on any more.
func clearUnix(ctx context.Context, path string) error {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		_ = c.Close() // it was only knocked at
		return fmt.Errorf("%w: another daemon answers there", syscall.EADDRINUSE)
	case errors.Is(err, syscall.ECONNREFUSED):
		if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
			_ = os.Remove(path) // else the bind says why not
		}
	}
	return nil
}

// checkUnix says why this process could not listen at a path, whoever does at
// the moment.
func checkUnix(path string) error {
	if strings.HasPrefix(path, "@") {
		return nil
	}
	if err := unix.Access(filepath.Dir(path), unix.W_OK|unix.X_OK); err != nil {
		return explainUnix(err)
	}
	info, err := os.Lstat(path)
	if err == nil && info.Mode()&os.ModeSocket == 0 {
		return errors.New("what is there is no socket that was left behind")
	}
	return nil
}

// explainUnix says what to do about the usual mistakes.
func explainUnix(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w: another program listens there, or what is there is no socket that was left behind", err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: make the directory first", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: this daemon's user must be able to write to the directory", err)
	}
	return err
}

// socketFile is the file that a unix socket made. The zero value is none.
type socketFile struct {
	path string
	info fs.FileInfo
}

// grant gives the file to its owner and group, and then opens it to them.
func (f *socketFile) grant(to File) error {
	if f.path == "" || !f.isOurs() {
		return nil
	}
	if to.UID >= 0 || to.GID >= 0 {
		if err := os.Lchown(f.path, to.UID, to.GID); err != nil {
			return fmt.Errorf("owner and group: %w: a group may be one of this daemon's own; anything else needs CAP_CHOWN", err)
		}
	}
	if err := os.Chmod(f.path, to.Mode); err != nil {
		return fmt.Errorf("mode: %w", err)
	}
	return nil
}

// isOurs reports whether the path still leads to our file, and not to that of
// a daemon which came after somebody had removed ours.
func (f *socketFile) isOurs() bool {
	now, err := os.Lstat(f.path)
	return err == nil && os.SameFile(f.info, now)
}

// isGone reports whether nothing is at the path any more, and nobody can connect.
func (f *socketFile) isGone() bool {
	if f.path == "" {
		return false
	}
	_, err := os.Lstat(f.path)
	return errors.Is(err, fs.ErrNotExist)
}

// remove removes the file, once, unless it is another's by now. It comes before
// the socket is closed: that keeps the file's number from being given to a
// successor's, which would pass for ours.
func (f *socketFile) remove() {
	if f.path != "" && f.isOurs() {
		_ = os.Remove(f.path) // a successor replaces what is left
	}
	*f = socketFile{}
}
