package textfile

import (
	"fmt"
	"strings"
)

// mostFaults is how many lines a message repeats; the others are counted.
const mostFaults = 20

// Faults collects what is wrong with the lines of a file, so that whoever mends
// it sees all at once. The zero value is ready.
type Faults struct {
	list []error
	more int
}

// Add notes a line, the first is 1.
func (f *Faults) Add(line int, err error) {
	if len(f.list) == mostFaults {
		f.more++
		return
	}
	f.list = append(f.list, fmt.Errorf("line %d: %w", line, err))
}

// Err is nil, or all that was noted.
func (f *Faults) Err() error {
	if len(f.list) == 0 {
		return nil
	}
	return f
}

// Error is all in one line.
func (f *Faults) Error() string {
	all := make([]string, 0, mostFaults+1)
	for _, err := range f.list {
		all = append(all, err.Error())
	}
	if f.more > 0 {
		all = append(all, fmt.Sprintf("and %d lines more", f.more))
	}
	return strings.Join(all, "; ")
}

// Unwrap is each of them.
func (f *Faults) Unwrap() []error { return f.list }
