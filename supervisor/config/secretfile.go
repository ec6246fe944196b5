package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"cleversocks/conn/textfile"
)

// maxSecret bounds a file that holds one secret.
const maxSecret = 64 << 10

// readSecret reads a file that holds one secret: raw bytes, without one
// newline at the end. A file that every user of the machine may read is
// refused, unless worldReadable allows it or its file system is mounted
// read-only.
func readSecret(path string, worldReadable bool) (Secret, error) {
	f, err := openSecret(path, worldReadable)
	if err != nil {
		return Secret{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return Secret{}, bare(err)
	}
	defer clear(text)
	if len(text) > maxSecret {
		return Secret{}, fmt.Errorf("is larger than %s", Size(maxSecret))
	}
	return NewSecret(string(trimNewline(text))), nil
}

// openSecret opens a file that readSecret would accept. The caller closes it.
func openSecret(path string, worldReadable bool) (io.ReadCloser, error) {
	// Not blocking: a named pipe would otherwise hold the daemon up.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, bare(err)
	}
	if err = checkSecretFile(f, worldReadable); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return textfile.Wrap(f), nil
}

// checkSecretPath is checkSecretFile for a file that somebody else reads.
func checkSecretPath(path string, worldReadable bool) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) //nolint:gosec // the operator names the file
	if err != nil {
		return bare(err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	return checkSecretFile(f, worldReadable)
}

// checkSecretFile judges the open file, not its path, so that nobody can swap
// it in between.
func checkSecretFile(f *os.File, worldReadable bool) error {
	info, err := f.Stat()
	if err != nil {
		return bare(err)
	}
	if !info.Mode().IsRegular() {
		return errors.New("is not a regular file")
	}
	const othersRead = 0o004
	if info.Mode().Perm()&othersRead == 0 || worldReadable {
		return nil
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err == nil && fs.Flags&unix.ST_RDONLY != 0 {
		return nil
	}
	return fmt.Errorf("every user may read it (mode %04o): chmod o-r, or set secrets.allow_world_readable", info.Mode().Perm())
}

func trimNewline(text []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
}

// readCredentials reads a file with one "user:password" line. The password
// may hold colons.
func readCredentials(path string, worldReadable bool) (user string, password Secret, err error) {
	line, err := readSecret(path, worldReadable)
	if err != nil {
		return "", Secret{}, err
	}
	if strings.Contains(line.Reveal(), "\n") {
		return "", Secret{}, errors.New("must hold one line, user:password")
	}
	user, text, ok := strings.Cut(line.Reveal(), ":")
	if !ok {
		return "", Secret{}, errors.New("must hold one line, user:password; there is no colon")
	}
	return strings.Clone(user), NewSecret(text), nil
}
