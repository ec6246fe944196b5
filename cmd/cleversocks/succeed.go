package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"cleversocks/supervisor/config"
	"cleversocks/supervisor/upgrade"
)

// inherit takes what the process was started with. A predecessor tells the
// command line and the variables as they really are: what others can read of
// ours has masks in the place of secrets.
func (a *app) inherit(ctx context.Context) {
	a.inherited, a.inheritErr = upgrade.Inherit(ctx, a.environ)
	if p := a.inherited.From(); p != nil {
		a.args = append([]string{a.args[0]}, p.Hello.Args...)
		a.environ = append(slices.Clone(a.environ), p.Hello.Environ...)
	}
}

// successor is what an upgrade starts: the same command line, by the program
// that is at our path then. It is called before the command line is read, which
// wipes what is secret in it.
func (a *app) successor() upgrade.Program {
	args := make([]string, 0, len(a.args))
	for _, arg := range a.args[min(1, len(a.args)):] {
		args = append(args, strings.Clone(arg))
	}
	secrets := config.SecretEnv(a.environ)
	return upgrade.Program{
		Path: a.program, Args: args,
		Visible: func() []string { return visible(a.args) },
		Environ: slices.DeleteFunc(slices.Clone(a.environ), func(e string) bool {
			name, _, _ := strings.Cut(e, "=")
			return !slices.Contains(secrets, name)
		}),
	}
}

// visible is a command line with a mask for what was wiped from it.
func visible(args []string) []string {
	shown := make([]string, len(args))
	for i, arg := range args {
		var b strings.Builder
		for j, c := range []byte(arg) {
			switch {
			case c != 0:
				b.WriteByte(c)
			case j == 0 || arg[j-1] != 0:
				b.WriteString("***")
			}
		}
		shown[i] = b.String()
	}
	return shown
}

// ownPath is where the program was started from, as it was called: a symbolic
// link on the way may lead to another version by the time of an upgrade. What
// cannot be found that way is where the system says.
func ownPath(called string) string {
	running, err := os.Executable()
	if err != nil {
		running = called
	}
	path, err := exec.LookPath(called)
	if err != nil {
		return running
	}
	path, err = filepath.Abs(path)
	if err != nil {
		return running
	}
	first, err := os.Stat(path) //nolint:gosec // it is looked at, and must be what runs
	if err != nil {
		return running
	}
	if second, err := os.Stat("/proc/self/exe"); err != nil || !os.SameFile(first, second) {
		return running // argv[0] may say anything
	}
	return path
}

// inheritance is what the daemon was started with.
func (a *app) inheritance() (*upgrade.Inherited, error) {
	if a.inheritErr != nil {
		return nil, fmt.Errorf("%w: %w", config.ErrInvalid, a.inheritErr)
	}
	return a.inherited, nil
}
