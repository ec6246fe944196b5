package authsvc

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"cleversocks/conn/textfile"
)

const (
	maxUsersFile = 64 << 20
	maxUsersLine = 8 << 10
	// MaxName is the longest user name, that of RFC 1929 §2.
	MaxName = 255
)

// fileUser is a line of a users file.
type fileUser struct {
	name       string
	secret     *secret
	disabled   bool
	attributes string
	line       int
}

// readUsers reads "name:hash" lines, which splitLine describes; blank ones and
// those that begin with # are skipped. Names and plain passwords are bytes:
// nothing is trimmed but the line's end. Errors name the lines and never repeat
// what is behind the colon.
func readUsers(r io.Reader, key *macKey, allowPlain bool) ([]fileUser, error) {
	limited := &io.LimitedReader{R: r, N: maxUsersFile + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(make([]byte, 0, maxUsersLine), maxUsersLine)
	var users []fileUser
	var faults textfile.Faults
	n := 0
	for lines.Scan() {
		n++
		line := lines.Bytes() // without "\n" or "\r\n"
		if isRemark(line) {
			continue
		}
		parts, ok := splitLine(line)
		if !ok {
			faults.Add(n, errNoColon)
			continue
		}
		s, err := parseSecret(parts.name, parts.value, key, allowPlain)
		if err != nil {
			faults.Add(n, err)
			continue
		}
		users = append(users, fileUser{name: string(parts.name), secret: s, disabled: parts.disabled, attributes: string(parts.attributes), line: n})
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("line %d: longer than %d bytes", n+1, maxUsersLine)
	case err != nil:
		return nil, err
	case limited.N == 0:
		return nil, fmt.Errorf("larger than %d MiB", maxUsersFile>>20)
	}
	if err := faults.Err(); err != nil {
		return nil, err
	}
	return users, nil
}

var errNoColon = errors.New("no colon: name:hash is expected")

// isRemark reports whether a line holds no user.
func isRemark(line []byte) bool { return len(bytes.TrimSpace(line)) == 0 || line[0] == '#' }

// lineParts are the parts of a users file's line, within the line's memory.
type lineParts struct {
	name, value []byte
	disabled    bool
	attributes  []byte // of UsersOptions.Attributes
}

// splitLine takes a line apart: "name:hash", "name:!hash" for a user who is
// disabled, and "name:hash:attributes". Behind a plain password comes nothing:
// it may have colons and exclamation marks itself. ok is false without a colon.
func splitLine(line []byte) (p lineParts, ok bool) {
	p.name, p.value, ok = bytes.Cut(line, []byte(":"))
	value, disabled := bytes.CutPrefix(p.value, []byte("!"))
	if !ok || !isOwnHash(value) {
		return p, ok
	}
	p.disabled = disabled
	p.value, p.attributes, _ = bytes.Cut(value, []byte(":"))
	return p, true
}

// parseSecret reads a hash, or a plain password where that is allowed.
func parseSecret(name, value []byte, key *macKey, allowPlain bool) (*secret, error) {
	if len(name) == 0 || len(name) > MaxName {
		return nil, fmt.Errorf("a user name has 1 to %d bytes", MaxName)
	}
	if len(value) == 0 {
		// Even where plain passwords are allowed, this is no password but one
		// that was forgotten.
		return nil, fmt.Errorf("user %q: nothing behind the colon", name)
	}
	s, err := parseHash(value)
	switch {
	case err == nil:
		return s, nil
	case IsHash(value):
		return nil, fmt.Errorf("user %q: %w", name, err)
	case !allowPlain:
		return nil, fmt.Errorf("user %q: %w; a plain password needs auth.allow_plain_passwords", name, err)
	}
	return plainSecret(key, value), nil
}

// openUsers opens a users file. A pipe or a device would block.
func openUsers(path string) (io.ReadCloser, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	return os.Open(path) //nolint:gosec // the operator's settings name the file
}

// readUsersPath reads a users file.
func readUsersPath(path string, open func(string) (io.ReadCloser, error), key *macKey, allowPlain bool) ([]fileUser, error) {
	f, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("users file %s: %w", path, err)
	}
	users, err := readUsers(f, key, allowPlain)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("users file %s: %w", path, err)
	}
	return users, nil
}
