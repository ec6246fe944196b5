package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cleversocks/conn/adopt"
	"cleversocks/conn/task"
)

// Program is what is started as a successor.
type Program struct {
	// Path is where the program was when this process began; it may have been
	// replaced since.
	Path string
	// Visible is the command line as others may read it, with the program's name.
	Visible func() []string
	// Args, Environ, Config, Filled, LogIn and Sandbox are as in Hello.
	Args    []string
	Environ []string
	Config  func() []byte
	Filled  func() bool
	LogIn   bool
	Sandbox json.RawMessage
	// Sessions is how many there have been.
	Sessions uint64
}

// Passing is a socket for the successor. The descriptor is a duplicate.
type Passing struct {
	Socket

	FD int
}

// CloseAll closes duplicates that are of no use any more.
func CloseAll(all []Passing) {
	for _, p := range all {
		_ = unix.Close(p.FD) // the original stays
	}
}

// Pass makes a socket ready to be passed.
func Pass(as Socket, s syscall.Conn) (Passing, error) {
	fd, err := adopt.DuplicateOf(s)
	if err != nil {
		return Passing{}, fmt.Errorf("%s %s: %w", as.Role, as.Bound, err)
	}
	return Passing{Socket: as, FD: fd}, nil
}

// Successor is a process that was started to take over.
type Successor struct {
	PID     int
	channel *channel
	process *os.Process
	ended   chan struct{} // closed when its end is known
	state   string        // how it ended, then
	yielded bool          // it has the turn, and may serve
}

// Start starts the program with the sockets, whose descriptors it closes here.
func Start(ctx context.Context, p Program, sockets []Passing, counted map[string]uint64, panics *task.Reporter) (*Successor, error) {
	defer CloseAll(sockets)
	if os.Getpid() == 1 {
		return nil, ErrPID1
	}
	c, theirs, err := newPair()
	if err != nil {
		return nil, err
	}
	files := []uintptr{0, 1, 2, uintptr(theirs)}
	names := []string{string(RolePredecessor)}
	hello := Hello{PID: os.Getpid(), Args: p.Args, Environ: p.Environ, Sandbox: p.Sandbox, Counted: counted, Sockets: []Socket{}}
	if p.Config != nil {
		hello.Config = p.Config()
	}
	hello.Sessions = p.Sessions
	if hello.LogIn = p.LogIn; p.Filled != nil {
		hello.Filled = p.Filled()
	}
	for _, s := range sockets {
		files = append(files, uintptr(s.FD))
		names = append(names, fdName(s.Socket))
		hello.Sockets = append(hello.Sockets, s.Socket)
	}
	process, err := p.start(files, append(p.environ(), "LISTEN_FDS="+strconv.Itoa(len(names)),
		"LISTEN_FDNAMES="+strings.Join(names, ":"), Marker+"="+strconv.Itoa(os.Getpid())))
	_ = unix.Close(theirs) // the successor has it
	if err != nil {
		c.close()
		return nil, fmt.Errorf("%s can't be started: %w", p.Path, err)
	}
	s := &Successor{PID: process.Pid, channel: c, process: process, ended: make(chan struct{})}
	scope, _ := task.New(context.WithoutCancel(ctx), panics, "upgrade")
	scope.Go(func() error { s.wait(); return nil })
	if err := c.send(kindHello, hello); err != nil {
		return nil, s.Kill(ctx, s.explain(ctx, err, ReadyTimeout))
	}
	return s, nil
}

// start runs the program. Under a service manager it becomes a child of this
// process's parent, which is the manager: that is told of the end of its own
// children alone, and this process will be there for long.
func (p Program) start(files []uintptr, environ []string) (*os.Process, error) {
	attr := &syscall.ProcAttr{Env: environ, Files: files, Sys: &syscall.SysProcAttr{}}
	if managed() {
		attr.Sys.Cloneflags = unix.CLONE_PARENT
	}
	pid, err := syscall.ForkExec(p.Path, p.Visible(), attr) //nolint:gosec // it is what this process runs
	if err != nil {
		return nil, err
	}
	return os.FindProcess(pid)
}

func managed() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// environ is this process's environment without secrets and without what is
// meant for this process alone.
func (p Program) environ() []string {
	left := slices.Clone(listenVariables)
	left = append(left, "WATCHDOG_PID") // the watchdog follows MAINPID
	for _, secret := range p.Environ {
		name, _, _ := strings.Cut(secret, "=")
		left = append(left, name)
	}
	return slices.DeleteFunc(os.Environ(), func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		return slices.Contains(left, name)
	})
}

// fdName is a descriptor's name in LISTEN_FDNAMES, for people: what counts is
// in the hello.
func fdName(s Socket) string {
	if s.Role == RoleSystemd {
		return s.Name
	}
	return string(s.Role)
}

// wait learns of the end of a child of our own; of others the channel tells.
func (s *Successor) wait() {
	defer close(s.ended)
	if state, err := s.process.Wait(); err == nil {
		s.state = state.String()
	}
}

// AwaitReady waits until the successor can serve, and gives the places of the
// sockets that it has taken over. The error is why it cannot.
func (s *Successor) AwaitReady(ctx context.Context) (taken []int, err error) {
	bounded, cancel := context.WithTimeout(ctx, ReadyTimeout)
	defer cancel()
	return taken, s.explain(ctx, s.channel.expect(bounded, kindReady, &taken, nil), ReadyTimeout)
}

// Tell passes on a table's entries, and says how many they are.
func (s *Successor) Tell(table string, entries any) (int, error) {
	return s.channel.tell(table, entries)
}

// Report tells what connections hold that counts in all processes.
func (s *Successor) Report(r any) error { return s.channel.send(kindReport, r) }

// Share tells what connections here want of users' bandwidths.
func (s *Successor) Share(list any) error { return s.channel.send(kindShare, list) }

// Events tells what has happened here, for those who follow events there.
func (s *Successor) Events(news any) error { return s.channel.send(kindEvents, news) }

// Yield gives the turn to the successor, and waits until it serves.
func (s *Successor) Yield(ctx context.Context, t Turn) error {
	s.yielded = true
	if err := s.channel.send(kindYours, t); err != nil {
		return s.explain(ctx, err, ServingTimeout)
	}
	bounded, cancel := context.WithTimeout(ctx, ServingTimeout)
	defer cancel()
	return s.explain(ctx, s.channel.expect(bounded, kindServing, nil, nil), ServingTimeout)
}

// explain words an error of the conversation.
func (s *Successor) explain(ctx context.Context, err error, bound time.Duration) error {
	switch {
	case err == nil || ctx.Err() != nil:
		return errors.Join(err, ctx.Err())
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the successor did not get ready within %s", bound)
	case errors.Is(err, ErrGone):
		how := ""
		select {
		case <-s.ended:
			if s.state != "" {
				how = " (" + s.state + ")"
			}
		case <-time.After(killGrace): // its end can follow that of the channel
		}
		return fmt.Errorf("the successor ended before it was ready%s: the log has what it said", how)
	}
	return fmt.Errorf("the successor: %w", err)
}

// Kill ends a successor that is not wanted. It returns why. One that may serve
// already, as all is stopped at this moment, ends what it has in its own time.
func (s *Successor) Kill(ctx context.Context, why error) error {
	s.channel.dismiss(why)
	s.Stop()
	if s.yielded && ctx.Err() != nil {
		return why
	}
	look := time.NewTicker(killGrace / 100)
	defer look.Stop()
	for deadline := time.Now().Add(killGrace); time.Now().Before(deadline); <-look.C {
		if s.process.Signal(syscall.Signal(0)) != nil {
			return why
		}
	}
	_ = s.process.Kill()
	return why
}

// Wanted is what a successor may want of a process that drains.
type Wanted struct {
	Heard

	Reload func(Settings)
	Rotate func()
	Stop   func()
	// Answer answers a question, in as many parts as it says.
	Answer func(what string, body json.RawMessage, say func(part any) error) error
}

// Heed follows what the successor says while this process drains: what counts
// in all, which the settings are, and questions. It returns when the
// successor has ended, or ctx has.
func (s *Successor) Heed(ctx context.Context, w Wanted) error {
	for {
		m, err := s.channel.receive(ctx)
		if err != nil {
			return err
		}
		switch m.Kind {
		case kindReload:
			var settings Settings
			if settings, err = SettingsOf(m.Body); err == nil {
				w.Reload(settings)
			}
		case kindRotate:
			w.Rotate()
		case kindStop:
			w.Stop()
		case kindAsk:
			err = s.channel.answer(m.Body, w.Answer)
		default:
			err = w.hear(m)
		}
		if err != nil {
			return err
		}
	}
}

// Stop has the successor drain and end.
func (s *Successor) Stop() {
	_ = s.process.Signal(syscall.SIGTERM) // fails if it has ended
}

// Reload has the successor read its settings again.
func (s *Successor) Reload() error { return s.process.Signal(syscall.SIGHUP) }

// Close lets go of the channel.
func (s *Successor) Close() { s.channel.close() }
