package authsvc

import (
	"bytes"
	"slices"
)

// SplitUserLine takes a line of a users file apart. secret is a hash, or a password,
// behind which nothing stands. ok is false without a colon.
func SplitUserLine(line string) (name, secret string, disabled bool, attributes string, ok bool) {
	p, ok := splitLine([]byte(line))
	return string(p.name), string(p.value), p.disabled, string(p.attributes), ok
}

// ImportUsers is a users file with many users added and changed at once. edit is
// called for each name, in order: l is the user's line as it is, or, where is is
// false, a new one that has the name alone. It changes l, or returns false to leave
// the file as it is there; an error ends the import. Lines of others stay, byte for
// byte; new ones are at the end.
func ImportUsers(content []byte, names []string, edit func(i int, l *UserLine, is bool) (bool, error)) ([]byte, error) {
	lines := splitLines(content)
	at := make(map[string]int, len(lines)) // the first line of each, as findUser
	for i, line := range lines {
		body, _, _ := trimLine(line, i)
		if isRemark(body) {
			continue
		}
		if parts, ok := splitLine(body); ok {
			if _, twice := at[string(parts.name)]; !twice {
				at[string(parts.name)] = i
			}
		}
	}
	ending := "\n"
	if len(lines) > 0 && bytes.HasSuffix(lines[0], []byte("\r\n")) {
		ending = "\r\n"
	}
	if n := len(lines); n > 0 && !bytes.HasSuffix(lines[n-1], []byte("\n")) {
		lines[n-1] = slices.Concat(lines[n-1], []byte(ending))
	}
	for i, name := range names {
		n, is := at[name]
		l, mark, end := UserLine{Name: name}, []byte(nil), []byte(ending)
		if is {
			var body []byte
			body, mark, end = trimLine(lines[n], n)
			parts, _ := splitLine(body)
			l.Hash, l.Disabled, l.Attributes = string(parts.value), parts.disabled, string(parts.attributes)
			if !isOwnHash(parts.value) {
				l.Hash = Hash(parts.value)
			}
		}
		if change, err := edit(i, &l, is); err != nil {
			return nil, err
		} else if !change {
			continue
		}
		if err := l.check(); err != nil {
			return nil, err
		}
		line := slices.Concat(mark, l.bytes(), end)
		if is {
			lines[n] = line
			continue
		}
		at[name] = len(lines)
		lines = append(lines, line)
	}
	return bytes.Join(lines, nil), nil
}
