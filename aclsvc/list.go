package aclsvc

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"cleversocks/conn/textfile"
)

const (
	maxListBytes = 64 << 20
	maxListLine  = 1024
	// maxPrefixes bounds what all rules together hold: about 200 MB.
	maxPrefixes = 2_000_000
)

// readList reads a "file:" list: one entry a line; blank lines and what
// follows a # are ignored. The error names the lines.
func readList(r io.Reader) ([]entry, error) {
	limited := &io.LimitedReader{R: r, N: maxListBytes + 1}
	lines := bufio.NewScanner(textfile.NewReader(limited))
	lines.Buffer(make([]byte, 0, maxListLine), maxListLine)
	var entries []entry
	var faults textfile.Faults
	n := 0
	for lines.Scan() {
		n++
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		e, err := parseEntry(text)
		if err != nil {
			faults.Add(n, err)
			continue
		}
		if entries = append(entries, e); len(entries) > maxPrefixes {
			return nil, fmt.Errorf("line %d: more than %d entries", n, maxPrefixes)
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("line %d: longer than %d bytes", n+1, maxListLine)
	case err != nil:
		return nil, err
	case limited.N == 0:
		return nil, fmt.Errorf("larger than %d MiB", maxListBytes>>20)
	}
	if err := faults.Err(); err != nil {
		return nil, err
	}
	return entries, nil
}

// openList opens a list. A pipe or a device would block or never end.
func openList(path string) (io.ReadCloser, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return os.Open(path) //nolint:gosec // the operator's settings name the file
}
