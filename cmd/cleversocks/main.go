// Command cleversocks is a SOCKS proxy daemon. This package knows flags,
// subcommands, the log's handlers and the exit status; the daemon itself is
// package supervisor.
//
//go:generate go test -run ^TestReference$ -update .
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"cleversocks/supervisor"
	"cleversocks/supervisor/config"
	"cleversocks/supervisor/upgrade"
)

// The exit status.
const (
	exitDrained = 0
	exitFailed  = 1
	exitInvalid = 2 // configuration or usage
)

func main() {
	a := &app{
		args: os.Args, environ: os.Environ(), unsetenv: unsetSecret,
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		serve: supervisor.Run, program: ownPath(os.Args[0]),
	}
	ctx := context.Background()
	a.inherit(ctx)
	os.Exit(a.run(ctx))
}

// app is the process as the commands see it.
type app struct {
	args     []string // the process's own, whose memory -P is wiped from
	environ  []string
	unsetenv func(name string) error
	stdin    *os.File
	stdout   io.Writer
	stderr   io.Writer
	// serve is supervisor.Run.
	serve func(context.Context, supervisor.Options) error

	program    string // the path that an upgrade starts
	inherited  *upgrade.Inherited
	inheritErr error
}

// run executes the command line and returns the exit status.
func (a *app) run(ctx context.Context) int {
	root := newRoot(ctx, a)
	root.SetArgs(a.args[1:])
	err := root.ExecuteContext(ctx)
	a.report(err)
	if p := a.inherited.From(); p != nil && err != nil {
		p.Fail(err)
	}
	switch {
	case err == nil:
		return exitDrained
	case errors.Is(err, config.ErrInvalid), errors.Is(err, errUsage):
		return exitInvalid
	default:
		return exitFailed
	}
}

// report writes an error for an operator: one line for each problem.
func (a *app) report(err error) {
	if err == nil {
		return
	}
	lines := []string{err.Error()}
	if invalid, ok := errors.AsType[*config.InvalidError](err); ok {
		lines = invalid.Problems()
	}
	if errors.Is(err, errUsage) {
		lines = append(lines, `"cleversocks --help" lists flags and commands`)
	}
	for _, line := range lines {
		// Nobody is left to tell when this fails.
		_, _ = fmt.Fprintf(a.stderr, "cleversocks: %s\n", line)
	}
}
