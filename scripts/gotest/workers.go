package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// chunk is how many tests a process runs. Tests of a file stand beside each other,
// and share what they make once.
const chunk = 8

// piece is a part of a package's tests.
type piece struct {
	pkg, dir, binary string
	tests            []string
}

// workers runs the tests of packages in several processes at a time: those of one
// process wait most of the time, and come one after the other. Each process has to
// be by itself, as those of package e2e are in their namespaces. What args has
// beside packages goes to the test binaries.
func (r *results) workers(n int, args []string) error {
	var flags []string
	which := "."
	queue := make(chan piece, 10_000)
	for _, arg := range args {
		if pattern, is := strings.CutPrefix(arg, "-run="); is {
			which = pattern
			continue
		}
		if flag, is := strings.CutPrefix(arg, "-"); is {
			flags = append(flags, "-test."+flag)
			continue
		}
		if err := r.pieces(arg, which, queue); err != nil {
			return err
		}
	}
	close(queue)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for p := range queue {
				errs[i] = errors.Join(errs[i], r.runPiece(p, flags))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// pieces builds a package's tests, and cuts those up that a pattern is for.
func (*results) pieces(pkg, which string, queue chan<- piece) error {
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}} {{.Dir}}", pkg).Output()
	if err != nil {
		return fmt.Errorf("go list %s: %w", pkg, err)
	}
	name, dir, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	binary, err := filepath.Abs(filepath.Join(".task", path.Base(name)+".test"))
	if err != nil {
		return err
	}
	if out, err := exec.Command("go", "test", "-c", "-o", binary, pkg).CombinedOutput(); err != nil {
		return fmt.Errorf("%s does not build: %w\n%s", pkg, err, out)
	}
	list := exec.Command(binary, "-test.list="+which)
	list.Dir = dir
	all, err := list.Output()
	if err != nil {
		return fmt.Errorf("%s has no list of its tests: %w", pkg, err)
	}
	var tests []string
	for line := range strings.Lines(string(all)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "Test") || strings.HasPrefix(line, "Example") {
			tests = append(tests, regexp.QuoteMeta(line))
		}
	}
	for len(tests) > 0 {
		size := min(chunk, len(tests))
		queue <- piece{pkg: name, dir: dir, binary: binary, tests: tests[:size]}
		tests = tests[size:]
	}
	return nil
}

// runPiece runs a piece, and reads what it says as go test -json has it.
func (r *results) runPiece(p piece, flags []string) error {
	args := append([]string{"tool", "test2json", "-t", "-p", p.pkg, p.binary, "-test.v=test2json", "-test.paniconexit0", "-test.run", "^(" + strings.Join(p.tests, "|") + ")$"}, flags...)
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Env = p.dir, append(os.Environ(), everything)
	cmd.Stderr = r.out
	events, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	began := time.Now()
	err = errors.Join(r.read(events), cmd.Wait())
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.out, "%s %s to %s\t%.1fs\n", p.pkg, p.tests[0], p.tests[len(p.tests)-1], time.Since(began).Seconds())
	return err
}

// workerCount takes "-workers=N" out of arguments; 0: it is not there.
func workerCount(args []string) (int, []string) {
	for i, arg := range args {
		if text, is := strings.CutPrefix(arg, "-workers="); is {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 {
				break
			}
			return n, append(args[:i:i], args[i+1:]...)
		}
	}
	return 0, args
}
