// Command gotest runs "go test" for CI:
//
//	go run ./scripts/gotest NAME ARGUMENTS...
//
// With "-workers=N" among the arguments it cuts the packages' tests into pieces,
// and runs N of them at a time, each in a process of its own.
//
// It shows a line a package while the tests run, and at the end what failed:
// the output of each failed test, and after that, last, what the tests had to
// say. It keeps the number of passed tests in .task/NAME.passed for the
// summary. A test that skips itself fails the run: what CI does not run is not
// tested.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: gotest NAME ARGUMENTS...")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:], os.Stdout); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// everything tells tests that nothing may be left out, for want of a program or
// of permission.
const everything = "CLEVERSOCKS_TEST_EVERYTHING=1"

func run(name string, args []string, out io.Writer) error {
	if err := os.MkdirAll(".task", 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(".task", name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	r := newResults(log, out)
	if n, rest := workerCount(args); n > 0 {
		err = r.workers(n, rest)
	} else {
		err = r.test(args)
	}
	if err := errors.Join(r.report(), err); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: %d passed\n", name, r.passed)
	return os.WriteFile(filepath.Join(".task", name+".passed"), fmt.Appendln(nil, r.passed), 0o644)
}

// test runs "go test".
func (r *results) test(args []string) error {
	command := []string{"test"}
	if args[0] == "-C" { // another module's folder, which the go command wants first
		command, args = append(command, args[:2]...), args[2:]
	}
	cmd := exec.Command("go", slices.Concat(command, []string{"-json", "-count=1"}, args)...)
	cmd.Env = append(os.Environ(), everything)
	cmd.Stderr = r.out // what the go command itself says
	events, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	return errors.Join(r.read(events), cmd.Wait())
}

// event is a line of "go test -json" (go doc test2json) or of "go build -json".
type event struct {
	Action, Package, Test, Output, ImportPath string
}

// test is a test, or with an empty name a package.
type test struct{ pkg, name string }

func (t test) String() string { return strings.TrimSpace(t.pkg + " " + t.name) }

type results struct {
	mu       sync.Mutex // for all below
	log, out io.Writer
	output   map[test][]string
	failed   []test
	skipped  []test
	passed   int
}

func newResults(log, out io.Writer) *results {
	return &results{log: log, out: &shared{to: out}, output: make(map[test][]string)}
}

// shared is a writer for several at a time: what commands say comes beside what
// is read of them.
type shared struct {
	mu sync.Mutex
	to io.Writer
}

func (s *shared) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.to.Write(b)
}

func (r *results) read(events io.Reader) error {
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			r.mu.Lock()
			r.line(line)
			r.mu.Unlock()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *results) line(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil {
		e = event{Action: "output", Output: string(line)}
	}
	t := test{e.Package, e.Test}
	if e.ImportPath != "" {
		t.pkg = e.ImportPath
	}
	switch e.Action {
	case "output", "build-output":
		_, _ = io.WriteString(r.log, e.Output) // a copy for whoever wants all of it
		r.output[t] = append(r.output[t], e.Output)
		if e.Test == "" && (strings.HasPrefix(e.Output, "ok ") || strings.HasPrefix(e.Output, "FAIL\t")) {
			_, _ = io.WriteString(r.out, e.Output)
		}
	case "pass":
		if t.name != "" {
			r.passed++
		}
		delete(r.output, t)
	case "skip":
		if t.name != "" {
			r.skipped = append(r.skipped, t)
		}
	case "fail", "build-fail":
		r.failed = append(r.failed, t)
	}
}

// maxOutput bounds what is shown of one test, in lines; the log has it all.
const maxOutput = 200

// report shows what failed, what the tests said of it last.
func (r *results) report() error {
	if len(r.failed) == 0 && len(r.skipped) == 0 {
		return nil
	}
	var last []string
	for _, t := range r.failed {
		output := r.output[t]
		// A package fails with its tests, and says something of its own only
		// when it does not build or ends early.
		said := messages(output)
		if t.name == "" && r.hasFailedTest(t.pkg) {
			said = panics(output)
		}
		if len(said) == 0 && t.name == "" && r.hasFailedTest(t.pkg) {
			continue
		}
		fmt.Fprintf(r.out, "== output of %s ==\n%s", t, strings.Join(tail(output), ""))
		if !r.hasFailedChild(t) || len(said) > 0 {
			last = append(last, "--- FAIL: "+t.String()+"\n"+strings.Join(said, ""))
		}
	}
	for _, t := range r.skipped {
		last = append(last, "--- SKIP: "+t.String()+"\n"+strings.Join(messages(r.output[t]), ""))
	}
	fmt.Fprintf(r.out, "== what failed ==\n%s", strings.Join(last, ""))
	return fmt.Errorf("%d passed, %d failed, %d skipped themselves", r.passed, r.count(), len(r.skipped))
}

// count is how many tests failed, or packages where none of theirs did.
func (r *results) count() int {
	n := 0
	for _, t := range r.failed {
		if t.name != "" || !r.hasFailedTest(t.pkg) {
			n++
		}
	}
	return n
}

func (r *results) hasFailedTest(pkg string) bool {
	return slices.ContainsFunc(r.failed, func(t test) bool { return t.pkg == pkg && t.name != "" })
}

func (r *results) hasFailedChild(of test) bool {
	return slices.ContainsFunc(r.failed, func(t test) bool { return t.pkg == of.pkg && strings.HasPrefix(t.name, of.name+"/") })
}

func tail(lines []string) []string { return lines[max(len(lines)-maxOutput, 0):] }

var (
	said      = regexp.MustCompile(`^\s+[\w.-]+\.go:\d+: `)
	framework = regexp.MustCompile(`^\s*(=== |--- |PASS|FAIL|ok |exit status)`)
)

// maxMessage bounds a message of several lines: a test shows logs by one too.
const maxMessage = 25

// messages are what a test itself said: lines that begin with a file's name and
// a number, and what follows them, indented. Without any it is the end of all.
func messages(output []string) []string {
	var out []string
	length := maxMessage
	for _, line := range output {
		switch {
		case said.MatchString(line):
			length = 0
		case framework.MatchString(line) || !strings.HasPrefix(line, "        "):
			length = maxMessage
		}
		if length < maxMessage {
			out = append(out, line)
			length++
		}
	}
	if len(out) == 0 {
		out = panics(output)
	}
	if len(out) == 0 {
		out = slices.DeleteFunc(slices.Clone(tail(output)), framework.MatchString)
		out = out[max(len(out)-maxMessage, 0):]
	}
	return out
}

// panics is from where a test binary ended by itself.
func panics(output []string) []string {
	i := slices.IndexFunc(output, func(l string) bool {
		return strings.HasPrefix(l, "panic:") || strings.HasPrefix(l, "fatal error:") || strings.HasPrefix(l, "WARNING: DATA RACE")
	})
	if i < 0 {
		return nil
	}
	return output[i:min(len(output), i+2*maxMessage)]
}
