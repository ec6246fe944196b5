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
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

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
	a.holdSignals()
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

	stdinIsConfig bool   // --config -: standard input is used up
	helpErr       error  // of the help that was written
	program       string // the path that an upgrade starts
	inherited     *upgrade.Inherited
	inheritErr    error
	signals       chan os.Signal // to the daemon
}

// holdSignals keeps those for the daemon that end any other process until it takes
// them: what rotates logs does not know that this process has just begun, be it as
// a successor.
func (a *app) holdSignals() {
	a.signals = make(chan os.Signal, 4)
	signal.Notify(a.signals, syscall.SIGHUP, syscall.SIGUSR2)
}

// releaseSignals has them end a process that is no daemon.
func (a *app) releaseSignals() {
	if a.signals != nil {
		signal.Stop(a.signals)
	}
}

// run executes the command line and returns the exit status.
func (a *app) run(ctx context.Context) int {
	root := newRoot(ctx, a)
	root.SetArgs(a.args[1:])
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		err = a.helpErr
	}
	a.report(cmd, err)
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
func (a *app) report(cmd *cobra.Command, err error) {
	if err == nil || readerGone(err) {
		return
	}
	lines := []string{err.Error()}
	if invalid, ok := errors.AsType[*config.InvalidError](err); ok {
		lines = invalid.Problems()
	}
	usage := errors.Is(err, errUsage)
	// Flags are not looked at otherwise: a start that a signal has ended reads them.
	if usage || errors.Is(err, config.ErrInvalid) {
		if long := singleDash(cmd, a.args[1:]); long != "" {
			lines = append(lines, "long flags have two dashes: "+long)
		}
	}
	switch {
	case usage && cmd.HasParent() && cmd.Name() != "help":
		lines = append(lines, fmt.Sprintf("%q says how it is used", cmd.CommandPath()+" --help"))
	case usage:
		lines = append(lines, `"cleversocks --help" lists flags and commands`)
	}
	for _, line := range lines {
		// Nobody is left to tell when this fails.
		_, _ = fmt.Fprintf(a.stderr, "cleversocks: %s\n", line)
	}
}

// readerGone reports whether the one who read our output has had enough, which
// is no error: `cleversocks sessions | head`. As a rule SIGPIPE ends us before;
// who starts us may have it ignored.
func readerGone(err error) bool {
	failed, ok := errors.AsType[*fs.PathError](err)
	return ok && failed.Path == os.Stdout.Name() && errors.Is(failed, syscall.EPIPE)
}

// getenv is a variable of the process, or "".
func (a *app) getenv(name string) string {
	for _, e := range a.environ {
		if value, ok := strings.CutPrefix(e, name+"="); ok {
			return value
		}
	}
	return ""
}
