package main

import (
	"io"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

func rootFor(t *testing.T, args ...string) *cobra.Command {
	t.Helper()
	return newRoot(t.Context(), &app{args: append([]string{"cleversocks"}, args...), stdout: io.Discard, stderr: io.Discard})
}

// Flags' texts ran to 230 columns. No line of any help is wider than the
// terminal, but for what is one word or there to be copied.
func TestHelpFits(t *testing.T) {
	for _, cmd := range everyCommand(rootFor(t)) {
		for _, width := range []int{80, 60, 40, 30} {
			var b strings.Builder
			if err := writeHelp(&b, cmd, width); err != nil {
				t.Fatal(err)
			}
			text := strings.ReplaceAll(b.String(), cmd.Example, "")
			for line := range strings.SplitSeq(text, "\n") {
				words := len(strings.Fields(line))
				if n := utf8.RuneCountInString(line); n > width && words > 1 && !strings.HasPrefix(line, "  "+cmd.CommandPath()) {
					t.Errorf("%s --help at %d columns has a line of %d: %q", cmd.CommandPath(), width, n, line)
				}
			}
		}
	}
}

// Each command has an example that fits, and that the command line takes.
// Package docs in e2e runs them.
func TestExamplesParse(t *testing.T) {
	for _, cmd := range everyCommand(rootFor(t)) {
		if !cmd.HasExample() {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		for line := range strings.SplitSeq(cmd.Example, "\n") {
			if utf8.RuneCountInString(line) > widest || !strings.HasPrefix(line, "  ") || strings.HasPrefix(line, "   ") && !strings.HasPrefix(line, "    ") {
				t.Errorf("%s: an example is not two columns in, or wider than %d: %q", cmd.CommandPath(), widest, line)
			}
		}
		for line := range strings.SplitSeq(strings.ReplaceAll(cmd.Example, "\\\n", " "), "\n") {
			parts := exampleCommand.FindStringSubmatch(substitution.ReplaceAllString(line, "${1}4711$2"))
			if parts == nil {
				t.Errorf("%s: an example of something else: %q", cmd.CommandPath(), line)
				continue
			}
			ours := parts[2]
			root := rootFor(t)
			found, rest, err := root.Find(strings.Fields(strings.ReplaceAll(ours, "'", "")))
			if err == nil {
				err = found.ParseFlags(rest)
			}
			if err != nil {
				t.Errorf("%s: %q: %v", cmd.CommandPath(), line, err)
			}
		}
	}
}

// Where the program's own words begin and end in a line of shell.
var (
	exampleCommand = regexp.MustCompile(`(^|[|(])\s*cleversocks([^|<>)]*)`)
	substitution   = regexp.MustCompile(`(--pid )\$\([^)]*\)()`)
)

func TestWrap(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", ""},
		{"a bc", "a bc"},
		{"one two three four", "one two\n  three\n  four"},
		{"anunbreakableword x", "anunbreakableword\n  x"},
	} {
		if got := wrap(tt.text, 2, 9); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.text, got, tt.want)
		}
	}
}

func TestReflow(t *testing.T) {
	text := "A paragraph\nof two lines.\n\n  a list  of words\n  b       more\n\nThe end."
	if got := reflow(text, 80); got != text {
		t.Errorf("what fits was changed: %q", got)
	}
	want := "A paragraph\nof two\nlines.\n\n  a list of\n    words\n  b more\n\nThe end."
	if got := reflow(text, 11); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
