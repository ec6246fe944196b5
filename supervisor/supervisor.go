// Package supervisor is the whole program in one place: Run builds every
// part, puts the services into a tree, and takes it down in order.
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"cleversocks/conn/task"
	"cleversocks/supervisor/config"
	"cleversocks/supervisor/upgrade"
)

// Options is what the command line gives to Run.
type Options struct {
	// Load reads all settings again: at the start and on SIGHUP. Its errors
	// wrap config.ErrInvalid.
	Load func() (*config.Config, error)
	// LoadText is Load with what a successor found in the configuration file; nil: the
	// file is read.
	LoadText func(text []byte) (*config.Config, error)
	Logger   *slog.Logger
	Access   *slog.Logger
	// PrepareLog opens the files that the loggers will write to, at the start
	// and on a reload. An error wraps config.ErrInvalid; nothing has changed.
	PrepareLog func(config.Log) (LogChange, error)
	LostLog    func() uint64 // log lines that could not be written
	// Level is the log's level, and SetLevel changes it until the next reload;
	// false: there is no such level.
	Level    func() string
	SetLevel func(level string) bool
	Version  string
	Commit   string
	// Inherited is what this process was started with; nil: nothing.
	Inherited *upgrade.Inherited
	// Signals has SIGHUP and SIGUSR2 that came before Run, and is where all go that
	// mean the daemon; nil: there were none.
	Signals chan os.Signal
	// Program is what an upgrade starts.
	Program upgrade.Program
}

// LogChange is what PrepareLog made ready. One of its methods is called.
type LogChange interface {
	Commit()   // level, format and files are the new ones
	Rollback() // they stay as they were
}

// ErrStillborn is a stop signal before anything was served.
var ErrStillborn = errors.New("ended by a signal while it was starting")

// ErrInterrupted is a second signal while the daemon drains: it ends at once.
var ErrInterrupted = errors.New("ended by a second signal, without draining")

// Run is the daemon from its settings to its end. It returns nil when it has
// drained; an error that wraps config.ErrInvalid when the settings are at
// fault, before anything was served.
func Run(ctx context.Context, o Options) error {
	signals := o.Signals
	if signals == nil {
		signals = make(chan os.Signal, 4)
	}
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR2)
	defer signal.Stop(signals)

	d, early, err := startUnless(ctx, o, signals)
	if err != nil {
		return err
	}
	if early != nil {
		o.Logger.LogAttrs(ctx, slog.LevelInfo, "stopping", slog.String("signal", early.String()))
		return d.stop(ctx, signals, time.Now())
	}
	var signalled time.Time
	for {
		select {
		case s := <-signals:
			switch s {
			case syscall.SIGHUP:
				d.reloader.signal()
				continue
			case syscall.SIGUSR2:
				d.upgrader.signal(ctx)
				continue
			}
			signalled = time.Now()
			o.Logger.LogAttrs(ctx, slog.LevelInfo, "stopping", slog.String("signal", s.String()))
		case successor := <-d.upgrader.done:
			return d.retire(ctx, signals, successor)
		case <-d.asked:
			o.Logger.LogAttrs(ctx, slog.LevelInfo, "stopping: an operator asked for it")
		case <-d.idle.expired:
			o.Logger.LogAttrs(ctx, slog.LevelInfo, "stopping: idle", slog.Duration("for", d.idle.limit()))
		case err := <-d.failed:
			return fmt.Errorf("the service tree ended: %w", err)
		case <-ctx.Done():
		}
		break
	}
	return d.stop(ctx, signals, signalled)
}

// startUnless loads the settings and starts the daemon, unless a signal comes
// first: names are resolved and files read, which can take long. From the first
// connection on a stop signal does not end the start, but is returned with the
// daemon, which has to drain.
func startUnless(ctx context.Context, o Options, signals <-chan os.Signal) (d *daemon, early os.Signal, err error) {
	var serves atomic.Bool
	// A signal leaves it behind: the process ends then.
	done := background(ctx, &task.Reporter{Log: o.Logger}, "start", func() (*daemon, error) {
		cfg, err := o.Load()
		if err != nil {
			return nil, err
		}
		return start(ctx, o, cfg, &serves)
	})
	again, upgrade := false, false
	for {
		select {
		case out := <-done:
			if out.err == nil && again {
				out.value.reloader.signal() // what was read may be older than the signal
			}
			if out.err == nil && upgrade {
				out.value.upgrader.signal(ctx)
			}
			return out.value, early, out.err
		case s := <-signals:
			switch s {
			case syscall.SIGHUP:
				again = true
			case syscall.SIGUSR2:
				upgrade = true // the predecessor may have said already that this process serves
			default:
				if !serves.CompareAndSwap(false, true) {
					early = s
					continue
				}
				return nil, nil, fmt.Errorf("%w (%s)", ErrStillborn, s)
			}
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// echo is how long after a stop signal others are taken for the same one:
// timeout(1), for one, signals its child and then its group, at once.
const echo = 500 * time.Millisecond

// stop takes the tree down in order, or returns at once on another signal.
// signalled is when there was the first; zero: there was none.
func (d *daemon) stop(ctx context.Context, signals <-chan os.Signal, signalled time.Time) error {
	stopped := make(chan struct{})
	scope, ending := task.New(context.WithoutCancel(ctx), d.panics, "shutdown")
	scope.Go(func() error {
		defer close(stopped)
		d.shutdown(ending)
		return nil
	})
	for {
		select {
		case <-stopped:
			d.log.LogAttrs(ctx, slog.LevelInfo, "stopped")
			return nil
		case s := <-signals:
			switch {
			case s == syscall.SIGHUP:
				d.reopenLogs(ctx)
				d.log.LogAttrs(ctx, slog.LevelWarn, "draining: the log was reopened; nothing else is reloaded any more")
			case s == syscall.SIGUSR2:
				d.log.LogAttrs(ctx, slog.LevelWarn, "no upgrade: this process stops")
			case signalled.IsZero():
				// A stop that was asked for by the API goes on: orchestrators drain
				// first, and signal afterwards as always.
				signalled = time.Now()
				d.log.LogAttrs(ctx, slog.LevelInfo, "stopping already; another signal ends it at once", slog.String("signal", s.String()))
			case time.Since(signalled) >= echo:
				return ErrInterrupted
			default:
				d.log.LogAttrs(ctx, slog.LevelDebug, "taken for the same stop signal", slog.String("signal", s.String()))
			}
		}
	}
}

// reopenLogs opens the logs in force again where nothing else is reloaded: a
// log that was rotated must not hold its disk space until a reload succeeds or
// the last connection has ended.
func (d *daemon) reopenLogs(ctx context.Context) {
	if err := d.applyLog(d.config.Load().Log); err != nil {
		d.log.LogAttrs(ctx, slog.LevelError, "the log could not be reopened", slog.Any("err", err))
	}
}

// shutdown is the order of the end: readiness off, no more reloads, which open
// listeners, drain.delay, no new connections, the connections drain, then what served them,
// then the admin endpoint.
func (d *daemon) shutdown(ctx context.Context) {
	d.phase.Store(phaseDraining)
	t, settings := d.tree, d.config.Load().Drain
	if !d.notify.isMuted() { // a predecessor has done this
		d.notify.stopping(ctx, settings.Delay.D()+settings.Timeout.D()+drainSlack+controlTimeout+ingressTimeout+3*coreTimeout)
		t.remove(ctx, t.control, controlTimeout)
		d.stopSuccessor(ctx)
		d.staysOpen(ctx, settings.Delay.D())
		t.remove(ctx, t.ingress, ingressTimeout)
		d.reloader.sockets.closeAll() // their owner has ended
		d.predecessors.stop()
	}
	timeout := d.config.Load().Drain.Timeout.D()
	others, cancel := context.WithTimeout(ctx, timeout+lastWords)
	defer cancel()
	t.remove(ctx, t.flows, timeout+drainSlack)
	d.predecessors.await(others)
	t.remove(ctx, t.core, coreTimeout)
	if !d.notify.isMuted() {
		t.remove(ctx, t.admin, coreTimeout)
	}
	d.cancel()
	if !d.awaitTree(ctx) {
		return // what its services use stays open, for the moment that is left
	}
	for _, closeIt := range d.closers {
		closeIt()
	}
}

// stopSuccessor passes the stop on to a successor that began to serve as the
// signal came: it was meant for the daemon.
func (d *daemon) stopSuccessor(ctx context.Context) {
	select {
	case s := <-d.upgrader.done:
		d.log.LogAttrs(ctx, slog.LevelInfo, "the successor stops, too", slog.Int("pid", s.PID))
		s.Stop()
	default:
	}
}

// staysOpen goes on accepting for a while, in which load balancers notice that
// the daemon is not ready any more and send nobody.
func (d *daemon) staysOpen(ctx context.Context, delay time.Duration) {
	if delay <= 0 {
		return
	}
	d.log.LogAttrs(ctx, slog.LevelInfo, "not ready any more, and still accepting", slog.Duration("for", delay))
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// awaitTree waits for the end of the root, which itself would wait for a
// service as long as for the longest drain.
func (d *daemon) awaitTree(ctx context.Context) bool {
	last := time.NewTimer(coreTimeout)
	defer last.Stop()
	select {
	case err := <-d.failed:
		if err != nil && !errors.Is(err, context.Canceled) {
			d.log.LogAttrs(ctx, slog.LevelError, "the service tree did not end well", slog.Any("err", err))
		}
		return true
	case <-last.C: // which services hang was logged as each did not stop
		d.log.LogAttrs(ctx, slog.LevelError, "the service tree did not end")
		return false
	}
}

// How long each phase of the end may take. The drain has its own.
const (
	controlTimeout = 5 * time.Second // for a reload that is under way
	ingressTimeout = 5 * time.Second
	lastWords      = 3 * time.Second  // of predecessors that have had drain.timeout, too
	drainSlack     = 10 * time.Second // closing what is left, polite closes included
	coreTimeout    = 5 * time.Second
)
