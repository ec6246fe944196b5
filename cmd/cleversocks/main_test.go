package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cleversocks/supervisor"
)

// TestMain makes this test binary the commands that scripts run.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"cleversocks": main,
		"listening":   listening,
	})
}

// Signals that the daemon takes do not end it while it starts: it hears of them.
func TestHeldSignals(t *testing.T) {
	var got chan os.Signal
	a := &app{args: []string{"cleversocks"}, unsetenv: func(string) error { return nil }, stdout: io.Discard, stderr: io.Discard, serve: func(_ context.Context, o supervisor.Options) error {
		got = o.Signals
		return nil
	}}
	a.holdSignals()
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil { // it ends this process otherwise
		t.Fatal(err)
	}
	if status := a.run(t.Context()); status != exitDrained {
		t.Fatalf("status %d", status)
	}
	select {
	case <-got:
	case <-time.After(patience):
		t.Error("the daemon does not hear of it")
	}
	a.releaseSignals()
}

// listening is cleversocks with a daemon that reads its configuration, says
// so and stays until its standard input ends.
func listening() {
	a := &app{
		args: os.Args, environ: os.Environ(), unsetenv: unsetSecret, stdout: os.Stdout, stderr: os.Stderr,
		serve: func(_ context.Context, o supervisor.Options) error {
			for range 2 { // as at the start and on SIGHUP
				cfg, err := o.Load()
				if err != nil {
					return err
				}
				log, err := o.PrepareLog(cfg.Log)
				if err != nil {
					return err
				}
				log.Commit()
				password := "none"
				if c := cfg.Auth.Credential; c != nil {
					password = c.Password.Reveal()
				}
				_, err = fmt.Fprintf(os.Stdout, "password %s, environment %q\n", password, os.Getenv("CLEVERSOCKS_AUTH__PASSWORD"))
				if err != nil {
					return err
				}
			}
			_, err := io.Copy(io.Discard, os.Stdin)
			return err
		},
	}
	os.Exit(a.run(context.Background()))
}

// promptExit keeps the race detector from waiting a second at each exit.
const promptExit = "atexit_sleep_ms=0"

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Setup: func(e *testscript.Env) error {
		e.Setenv("GORACE", promptExit)
		return nil
	}})
}

// TestPasswordLeavesArguments looks at a running process as another user
// would.
func TestPasswordLeavesArguments(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
	}{
		{"apart", []string{"-u", "joe", "-P", "hunter2"}},
		{"joined", []string{"-ujoe", "-Phunter2"}},
		{"combined", []string{"-u", "joe", "-qPhunter2"}},
		{"long", []string{"--user=joe", "--password=hunter2"}},
		{"long, apart", []string{"--user", "joe", "--password", "hunter2"}},
		{"twice", []string{"-u", "joe", "-Phunter2", "-P", "hunter2"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, cmdline := runListening(t, nil, tt.args...)
			if !strings.Contains(out, "password hunter2") {
				t.Errorf("the daemon does not know the password: %q", out)
			}
			if strings.Contains(cmdline, "hunter2") {
				t.Errorf("the password is in the arguments: %q", cmdline)
			}
			if !strings.Contains(cmdline, "joe") {
				t.Errorf("more than the password was wiped: %q", cmdline)
			}
		})
	}
}

// TestPasswordLeavesEnvironment: a reload still knows it. What the kernel shows
// of the environment is the process's first one, of which Go has a copy: the
// password stayed there for as long as the daemon ran.
func TestPasswordLeavesEnvironment(t *testing.T) {
	out, _ := runListening(t, []string{"CLEVERSOCKS_AUTH__PASSWORD=hunter2", "AFTER=kept"}, "-u", "joe")
	want := "password hunter2, environment \"\"\n"
	if out != want+want {
		t.Errorf("got %q, want %q twice", out, want)
	}
}

// runListening starts listening and returns what it printed and its
// arguments as they are by then.
func runListening(t *testing.T, env []string, args ...string) (out, cmdline string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "listening", args...)
	cmd.Env = append(append(os.Environ(), "GORACE="+promptExit), env...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err = cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var read bytes.Buffer
	for buf := make([]byte, 512); strings.Count(read.String(), "\n") < 2; {
		n, readErr := stdout.Read(buf)
		read.Write(buf[:n])
		if readErr != nil {
			t.Fatalf("it ended early: %v: %s", readErr, read.String())
		}
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(environ, []byte("hunter2")) || len(env) > 0 && !bytes.Contains(environ, []byte("AFTER=kept\x00")) {
		t.Errorf("the environment is %q", environ)
	}
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("exit: %v", err)
	}
	return read.String(), string(raw)
}
