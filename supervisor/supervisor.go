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
	"runtime"
	"syscall"
	"time"

	"cleversocks/supervisor/config"
)

// Options is what the command line gives to Run.
type Options struct {
	// Load reads all settings again: at the start and on SIGHUP. Its errors
	// wrap config.ErrInvalid.
	Load     func() (*config.Config, error)
	Logger   *slog.Logger
	Access   *slog.Logger
	ApplyLog func(config.Log) error // level, format, files; called on a reload
	LostLog  func() uint64          // log lines that could not be written
	Version  string
	Commit   string
}

// ErrInterrupted is a second signal while the daemon drains: it ends at once.
var ErrInterrupted = errors.New("ended by a second signal, without draining")

// Run is the daemon from its settings to its end. It returns nil when it has
// drained; an error that wraps config.ErrInvalid when the settings are at
// fault, before anything was served.
func Run(ctx context.Context, o Options) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)

	cfg, err := o.Load()
	if err != nil {
		return err
	}
	d, err := start(ctx, o, cfg)
	if err != nil {
		return err
	}
	for {
		select {
		case s := <-signals:
			if s == syscall.SIGHUP {
				d.reloader.request()
				continue
			}
			o.Logger.LogAttrs(ctx, slog.LevelInfo, "stopping", slog.String("signal", s.String()))
		case <-d.idle.expired:
			o.Logger.LogAttrs(ctx, slog.LevelInfo, "stopping: idle", slog.Duration("for", d.idle.limit()))
		case err := <-d.failed:
			return fmt.Errorf("the service tree ended: %w", err)
		case <-ctx.Done():
		}
		break
	}
	return d.stop(ctx, signals)
}

// stop takes the tree down in order, or returns at once on another signal.
func (d *daemon) stop(ctx context.Context, signals <-chan os.Signal) error {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		d.shutdown(context.WithoutCancel(ctx))
	}()
	for {
		select {
		case <-stopped:
			d.log.LogAttrs(ctx, slog.LevelInfo, "stopped")
			return nil
		case s := <-signals:
			if s != syscall.SIGHUP {
				return ErrInterrupted
			}
		}
	}
}

// shutdown is the order of the end: readiness off, no new connections, the
// connections drain, then what served them, then the admin endpoint.
func (d *daemon) shutdown(ctx context.Context) {
	d.phase.Store(phaseDraining)
	d.remove(ctx, d.tree.ingress, ingressTimeout)
	d.listeners.closeAll()
	d.remove(ctx, d.tree.flows, d.drainTimeout()+drainSlack)
	d.remove(ctx, d.tree.core, coreTimeout)
	d.remove(ctx, d.tree.admin, coreTimeout)
	d.cancel()
	if err := <-d.failed; err != nil && !errors.Is(err, context.Canceled) {
		d.log.LogAttrs(ctx, slog.LevelError, "the service tree did not end well", slog.Any("err", err))
	}
	d.resolver.Close()
	d.relayPools.Close()
}

// How long each phase of the end may take. The drain has its own.
const (
	ingressTimeout = 5 * time.Second
	drainSlack     = 10 * time.Second // closing what is left, polite closes included
	coreTimeout    = 5 * time.Second
)

func goVersion() string { return runtime.Version() }
