package upstream

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"cleversocks/conn/textfile"
)

// maxMemberFile bounds a file of members.
const maxMemberFile = 1 << 20

// source is a proxy's URL and where the settings have it.
type source struct {
	url  string
	path string // "upstream[0].members[2]"
}

// expand puts the content of files in the place of "file:PATH".
func expand(path string, list []string) ([]source, *ConfigError) {
	var out []source
	for i, text := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		file, isFile := strings.CutPrefix(text, "file:")
		if !isFile {
			out = append(out, source{text, at})
			continue
		}
		urls, err := readMemberFile(file)
		if err != nil {
			return nil, &ConfigError{at, err}
		}
		for _, u := range urls {
			out = append(out, source{u, at})
		}
	}
	return out, nil
}

func readMemberFile(path string) ([]string, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path) // a pipe would hold the reload up for good
	}
	f, err := os.Open(path) //nolint:gosec // the operator's own setting
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxMemberFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(b) > maxMemberFile:
		return nil, fmt.Errorf("%s: larger than %d bytes", path, maxMemberFile)
	}
	urls, err := parseMembers(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return urls, nil
}

// parseMembers reads a JSON array of URLs, or one URL a line with empty lines
// and those that begin with # left out. Every URL is checked here, where the
// line is known.
func parseMembers(b []byte) ([]string, error) {
	b, err := textfile.Trim(b)
	if err != nil {
		return nil, err
	}
	if trimmed := bytes.TrimSpace(b); len(trimmed) > 0 && trimmed[0] == '[' {
		var urls []string
		if err := json.Unmarshal(trimmed, &urls); err != nil {
			return nil, fmt.Errorf("want a JSON array of URLs: %w", err)
		}
		for i, u := range urls {
			if _, err := ParseHop(u); err != nil {
				return nil, fmt.Errorf("[%d]: %w", i, err)
			}
		}
		return urls, nil
	}
	var urls []string
	var faults textfile.Faults
	number := 0
	for line := range strings.Lines(string(b)) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if _, err := ParseHop(line); err != nil {
			faults.Add(number, err)
			continue
		}
		urls = append(urls, line)
	}
	if err := faults.Err(); err != nil {
		return nil, err
	}
	return urls, nil
}
