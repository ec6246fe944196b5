package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrInvalid is what every error about the configuration wraps: the process
// ends with status 2.
var ErrInvalid = errors.New("invalid configuration")

// errNotAccepted is a value type's plain no: the message then says what the
// type accepts.
var errNotAccepted = errors.New("not accepted")

// layer is one source of settings. A later one wins.
type layer int

const (
	fromDefault layer = iota
	fromFile
	fromEnv
	fromFlag
)

// origin is where a value comes from, in the operator's words.
type origin struct {
	layer     layer
	where     string // "cleversocks.toml:3:1", "environment CLEVERSOCKS_LOG__LEVEL", "flag -p"
	line, col int    // in the file
}

// fileLine is the place without its column, as "file:line", or "" for what is in
// no file.
func (o origin) fileLine() string {
	if o.line == 0 {
		return ""
	}
	return strings.TrimSuffix(o.where, fmt.Sprintf(":%d", o.col))
}

// problem is one thing that is wrong.
type problem struct {
	origin origin
	key    string // "limits.max_connections"; empty when where says it already
	text   string
}

func (p problem) String() string {
	parts := make([]string, 0, 3)
	for _, s := range []string{p.origin.where, p.key, p.text} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ": ")
}

// problems collects them, so that an operator sees all at once.
type problems struct{ list []problem }

func (ps *problems) add(o origin, key, format string, args ...any) {
	ps.list = append(ps.list, problem{origin: o, key: key, text: fmt.Sprintf(format, args...)})
}

// within says that something is wrong at path or below it already: then
// combinations there are not judged, as the values are not those that were
// meant. The elements of an array table are not below its name: each is by itself.
func (ps *problems) within(path string) bool {
	return slices.ContainsFunc(ps.list, func(p problem) bool {
		return p.key == path || strings.HasPrefix(p.key, path+".")
	})
}

// err is nil without problems, else one error for all, in the order of the
// file, then the environment, then the flags.
func (ps *problems) err() error {
	if len(ps.list) == 0 {
		return nil
	}
	slices.SortStableFunc(ps.list, func(a, b problem) int {
		return cmp.Or(
			cmp.Compare(a.origin.layer, b.origin.layer),
			cmp.Compare(a.origin.line, b.origin.line),
			cmp.Compare(a.origin.col, b.origin.col),
			cmp.Compare(a.origin.where, b.origin.where),
			cmp.Compare(a.key, b.key),
		)
	})
	return &InvalidError{problems: slices.Compact(ps.list)}
}

// Fault is something wrong with a setting that only the machine shows.
type Fault struct {
	Key  string // "relay.congestion"
	Text string
}

// Invalid is an error that tells all faults, each with the place of its
// setting; nil when there is none.
func (c *Config) Invalid(faults []Fault) error {
	var ps problems
	for _, f := range faults {
		ps.add(c.originOf(f.Key), f.Key, "%s", f.Text)
	}
	return ps.err()
}

// At is an error with the place of the setting that it is about. It is no fault
// of the settings.
func (c *Config) At(key, text string, err error) error {
	return &placed{problem{origin: c.originOf(key), key: key, text: text}, err}
}

type placed struct {
	problem
	err error
}

func (p *placed) Error() string { return p.String() }
func (p *placed) Unwrap() error { return p.err }

// InvalidError holds everything that is wrong with a configuration.
type InvalidError struct{ problems []problem }

// Problems is one line each, without a newline.
func (e *InvalidError) Problems() []string {
	lines := make([]string, len(e.problems))
	for i, p := range e.problems {
		lines[i] = p.String()
	}
	return lines
}

// Error is all problems, one a line.
func (e *InvalidError) Error() string { return strings.Join(e.Problems(), "\n") }

// Unwrap makes errors.Is(err, ErrInvalid) true.
func (e *InvalidError) Unwrap() error { return ErrInvalid }

// clip bounds what a message repeats of the input.
func clip(s string) string {
	const most = 64
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// DidYouMean is "; did you mean X?" for the candidate nearest to name, or ""
// when none is near.
func DidYouMean(name string, candidates []string) string {
	if len(name) > 200 { // the distance takes a product of lengths
		return ""
	}
	// Two letters of one of two are not near.
	best, bestDistance := "", min(max(2, len(name)/3)+1, max(len(strings.TrimLeft(name, "-")), 1))
	for _, c := range candidates {
		d := distance(name, c)
		// The beginning of the right name.
		if len(name) > 1 && strings.HasPrefix(c, name) {
			d = min(d, 2)
		}
		// The right name in the wrong section.
		if last(name) == last(c) {
			d = min(d, 2)
		}
		if d < bestDistance {
			best, bestDistance = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

func last(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }

// distance is Levenshtein's, by bytes, ignoring case.
func distance(a, b string) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
