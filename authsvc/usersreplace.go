package authsvc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// UsersDocument is a users file that is about to be edited. From OpenUsersDocument
// to Close no other program that edits it in the same way comes in between.
type UsersDocument struct {
	Content []byte // with its byte order mark, if it has one

	path string // symbolic links followed
	info os.FileInfo
	lock *os.File // its directory
	os   editOS
}

// ErrChangedMeanwhile is Replace's, when somebody else has written the file
// since it was opened: read it again.
var ErrChangedMeanwhile = errors.New("the file was changed meanwhile")

// editOS is what an edit does to the file system; tests make it fail.
type editOS struct {
	create func(path string, mode os.FileMode) (editTemp, error)
	sync   func(dir string) error
}

// editTemp is a file that takes another's place, as renameio.PendingFile.
type editTemp interface {
	io.Writer
	Chown(uid, gid int) error
	Fd() uintptr
	CloseAtomicallyReplace() error
	Cleanup() error // nothing, once it was replaced
}

func realEditOS() editOS {
	return editOS{
		create: func(path string, mode os.FileMode) (editTemp, error) {
			return renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithStaticPermissions(mode))
		},
		sync: syncDir,
	}
}

// OpenUsersDocument reads a users file to edit it. The caller closes it.
func OpenUsersDocument(path string) (*UsersDocument, error) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("users file %s: %w", path, bareError(err))
	}
	lock, err := lockDirectory(filepath.Dir(target))
	if err != nil {
		return nil, fmt.Errorf("users file %s: %w", path, err)
	}
	d := &UsersDocument{path: target, lock: lock, os: realEditOS()}
	if err := d.read(); err != nil {
		return nil, errors.Join(fmt.Errorf("users file %s: %w", path, bareError(err)), d.Close())
	}
	return d, nil
}

// lockDirectory keeps others who edit a file of the directory out. Where the
// file system has no locks they are not kept out.
func lockDirectory(dir string) (*os.File, error) {
	f, err := os.Open(dir) //nolint:gosec // the operator's settings name the file in it
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			return f, nil
		}
	}
}

// Close lets others edit.
func (d *UsersDocument) Close() error { return d.lock.Close() }

func (d *UsersDocument) read() error {
	f, err := os.OpenFile(d.path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	if d.info, err = f.Stat(); err != nil {
		return err
	}
	if !d.info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	if d.Content, err = io.ReadAll(io.LimitReader(f, maxUsersFile+1)); err == nil && len(d.Content) > maxUsersFile {
		err = fmt.Errorf("larger than %d MiB", maxUsersFile>>20)
	}
	return err
}

// Replace puts content in the file's place at once or not at all, with the
// owner, mode and access list of before. On an error the old file is untouched.
func (d *UsersDocument) Replace(content []byte) error {
	if bytes.Equal(content, d.Content) {
		return nil
	}
	if len(content) > maxUsersFile {
		return fmt.Errorf("users file %s would be larger than %d MiB", d.path, maxUsersFile>>20)
	}
	if err := d.replace(content); err != nil {
		return fmt.Errorf("users file %s was not written, the old one stays: %w", d.path, explainWrite(err))
	}
	return nil
}

func (d *UsersDocument) replace(content []byte) (err error) {
	f, err := d.os.create(d.path, d.info.Mode().Perm())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Cleanup()) }()
	if err := d.dress(f); err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		return err
	}
	if d.changed() {
		return ErrChangedMeanwhile
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return err
	}
	_ = d.os.sync(filepath.Dir(d.path)) // what is on the disk is one of the two, whole
	return nil
}

// dress gives the new file the owner and access list of the old one.
func (d *UsersDocument) dress(f editTemp) error {
	old, ok := d.info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	var fresh unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &fresh); err != nil {
		return err
	}
	if fresh.Uid != old.Uid || fresh.Gid != old.Gid {
		if err := f.Chown(int(old.Uid), int(old.Gid)); err != nil {
			return fmt.Errorf("it belongs to uid %d and gid %d, which this process may not give to a new one (give the file to uid %d): %w",
				old.Uid, old.Gid, os.Geteuid(), bareError(err))
		}
	}
	const accessList = "system.posix_acl_access"
	list := make([]byte, 4096)
	n, err := unix.Getxattr(d.path, accessList, list)
	if err != nil || n == 0 {
		return nil //nolint:nilerr // there is none, or the file system knows none
	}
	if err := unix.Fsetxattr(int(f.Fd()), accessList, list[:n], 0); err != nil {
		return fmt.Errorf("its access list cannot be kept: %w", err)
	}
	return nil
}

// changed reports whether the path holds another file than the one that was
// read, or that one written to.
func (d *UsersDocument) changed() bool {
	now, err := os.Stat(d.path)
	return err != nil || !os.SameFile(now, d.info) || now.Size() != d.info.Size() || !now.ModTime().Equal(d.info.ModTime())
}

// explainWrite says what an operator can do about an error.
func explainWrite(err error) error {
	switch {
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("it is mounted by itself, as a container's volume: mount its directory instead: %w", bareError(err))
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("it lies on a read-only file system: move it to a directory that the daemon may write to, and set auth.users_file: %w", bareError(err))
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the daemon's user may not write to its directory: %w", bareError(err))
	}
	return bareError(err)
}

// bareError leaves out the operation and the temporary file's name.
func bareError(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	if le, ok := errors.AsType[*os.LinkError](err); ok {
		return le.Err
	}
	return err
}
