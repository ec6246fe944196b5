package authsvc

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// What is wrong with a change of a users file, for errors.Is.
var (
	ErrUserExists = errors.New("is there already")
	ErrNoUser     = errors.New("there is no such user")
	ErrUserName   = errors.New("a users file cannot hold this name")
)

// UserLine is a user of a users file.
type UserLine struct {
	Name       string
	Hash       string // argon2id or bcrypt
	Disabled   bool
	Attributes string // of UsersOptions.Attributes; "": none
}

func (l *UserLine) bytes() []byte {
	text := l.Name + ":"
	if l.Disabled {
		text += "!"
	}
	text += l.Hash
	if l.Attributes != "" {
		text += ":" + l.Attributes
	}
	return []byte(text)
}

// check refuses what would be read otherwise than it is meant.
func (l *UserLine) check() error {
	if err := CheckUserName(l.Name); err != nil {
		return err
	}
	if _, err := parseHash([]byte(l.Hash)); err != nil {
		return fmt.Errorf("user %q: %w", l.Name, err)
	}
	if n := len(l.bytes()); n >= maxUsersLine {
		return fmt.Errorf("user %q: the line would have %d bytes, and may have %d", l.Name, n, maxUsersLine-1)
	}
	return nil
}

// CheckUserName is nil for a name that a line of a users file can hold.
func CheckUserName(name string) error {
	switch {
	case name == "" || len(name) > MaxName:
		return fmt.Errorf("%w: it has 1 to %d bytes", ErrUserName, MaxName)
	case strings.HasPrefix(name, "#"):
		return fmt.Errorf("%w: # begins a comment", ErrUserName)
	case strings.Contains(name, ":"):
		return fmt.Errorf("%w: a colon ends it", ErrUserName)
	case strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("%w: it has a control character", ErrUserName)
	case strings.TrimSpace(name) != name:
		return fmt.Errorf("%w: it begins or ends with a blank", ErrUserName)
	case strings.HasPrefix(name, "\ufeff"):
		return fmt.Errorf("%w: it begins with a byte order mark", ErrUserName)
	}
	return nil
}

// AddUser is a users file with one more line, at its end. Everything else in
// it is as it was, byte for byte.
func AddUser(content []byte, l UserLine) ([]byte, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	lines := splitLines(content)
	if i, _ := findUser(lines, l.Name); i >= 0 {
		return nil, fmt.Errorf("user %q %w (line %d)", l.Name, ErrUserExists, i+1)
	}
	end := "\n"
	if len(lines) > 0 && bytes.HasSuffix(lines[0], []byte("\r\n")) {
		end = "\r\n"
	}
	out := bytes.Clone(content)
	if n := len(out); n > 0 && out[n-1] != '\n' {
		out = append(out, end...)
	}
	return append(append(out, l.bytes()...), end...), nil
}

// ChangeUser is a users file with one user's line as change makes it. A plain
// password is hashed on the occasion, since nothing can stand behind it.
func ChangeUser(content []byte, name string, change func(*UserLine) error) ([]byte, error) {
	lines := splitLines(content)
	i, parts := findUser(lines, name)
	if i < 0 {
		return nil, fmt.Errorf("%w in the users file: %q", ErrNoUser, name)
	}
	l := UserLine{Name: name, Hash: string(parts.value), Disabled: parts.disabled, Attributes: string(parts.attributes)}
	if !isOwnHash(parts.value) {
		l.Hash = Hash(parts.value)
	}
	if err := change(&l); err != nil {
		return nil, err
	}
	l.Name = name
	if err := l.check(); err != nil && !errors.Is(err, ErrUserName) { // the name is in the file already
		return nil, err
	}
	body, mark, end := trimLine(lines[i], i)
	if bytes.Equal(body, l.bytes()) {
		return bytes.Clone(content), nil
	}
	lines[i] = slices.Concat(mark, l.bytes(), end)
	return bytes.Join(lines, nil), nil
}

// RemoveUser is a users file without one user's line.
func RemoveUser(content []byte, name string) ([]byte, error) {
	lines := splitLines(content)
	i, _ := findUser(lines, name)
	if i < 0 {
		return nil, fmt.Errorf("%w in the users file: %q", ErrNoUser, name)
	}
	_, mark, _ := trimLine(lines[i], i)
	lines[i] = mark
	return bytes.Join(lines, nil), nil
}

// splitLines are the lines with their ends.
func splitLines(content []byte) [][]byte {
	lines := bytes.SplitAfter(content, []byte("\n"))
	if n := len(lines); len(lines[n-1]) == 0 {
		lines = lines[:n-1]
	}
	return lines
}

// trimLine is a line as readUsers sees it, and what stands around it: the byte
// order mark of a file's first line, and the end.
func trimLine(line []byte, i int) (body, mark, end []byte) {
	const byteOrderMark = "\xef\xbb\xbf"
	if i == 0 && bytes.HasPrefix(line, []byte(byteOrderMark)) {
		mark, line = line[:len(byteOrderMark)], line[len(byteOrderMark):]
	}
	body = bytes.TrimSuffix(line, []byte("\n"))
	body = bytes.TrimSuffix(body, []byte("\r"))
	return body, mark, line[len(body):]
}

// findUser is the place of a user's line; -1: there is none.
func findUser(lines [][]byte, name string) (int, lineParts) {
	for i, line := range lines {
		body, _, _ := trimLine(line, i)
		if isRemark(body) {
			continue
		}
		if parts, ok := splitLine(body); ok && string(parts.name) == name {
			return i, parts
		}
	}
	return -1, lineParts{}
}
