package supervisor

import (
	"context"
	"log/slog"
	"os"
	"syscall"
	"time"

	"cleversocks/conn/task"
	"cleversocks/supervisor/upgrade"
)

// retire is the life of a predecessor after an upgrade: nothing is accepted,
// what is open goes on until it ends by itself, or for drain.upgrade_timeout. A
// stop signal gives it drain.timeout from then on.
func (d *daemon) retire(ctx context.Context, signals <-chan os.Signal, successor *upgrade.Successor) error {
	d.phase.Store(phaseDraining)
	d.notify.mute() // the service manager has another main process now
	retiring, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	retired := make(chan struct{})
	scope, inner := task.New(retiring, d.panics, "retire")
	scope.Go(func() error {
		defer close(retired)
		d.retreat(inner, successor)
		return nil
	})
	var signalled time.Time
	for asked := false; signalled.IsZero() && !asked; {
		select {
		case <-retired:
			_ = scope.Wait() // a panic was logged
			return d.stop(ctx, signals, signalled)
		case s := <-signals:
			switch s {
			case syscall.SIGHUP:
				d.reopenLogs(ctx)
			case syscall.SIGUSR2:
				d.log.LogAttrs(ctx, slog.LevelWarn, "no upgrade: this process drains, and has a successor", slog.Int("pid", successor.PID))
			default:
				signalled = time.Now()
				d.log.LogAttrs(ctx, slog.LevelInfo, "stopping", slog.String("signal", s.String()))
			}
		case <-d.asked:
			asked = true
			d.log.LogAttrs(ctx, slog.LevelInfo, "stopping: the daemon stops", slog.Int("pid", successor.PID))
		case err := <-d.failed:
			return err
		}
	}
	cancel()
	<-retired
	_ = scope.Wait() // a panic was logged
	return d.stop(ctx, signals, signalled)
}

// retreat leaves what listens to the successor, and waits for the connections.
func (d *daemon) retreat(ctx context.Context, successor *upgrade.Successor) {
	t := d.tree
	ending := context.WithoutCancel(ctx)
	t.remove(ending, t.control, controlTimeout)
	select {
	case <-d.reloader.signals: // a SIGHUP that came during the upgrade
		_ = successor.Reload() // fails if it has ended, which is told elsewhere
	default:
	}
	t.remove(ending, t.ingress, ingressTimeout)
	d.reloader.sockets.closeAll()
	t.remove(ending, t.admin, coreTimeout)
	d.log.LogAttrs(ctx, slog.LevelInfo, "draining", slog.Int("connections", d.active()), slog.Duration("upgrade_timeout", d.config.Load().Drain.UpgradeTimeout.D()))
	d.overdue.Store(true) // what is left when the time is over has no more of it
	if d.awaitRetired(ctx, time.Now()); ctx.Err() != nil {
		d.overdue.Store(false)
	}
}

// retireLook is how often the settings in force are asked for drain.upgrade_timeout:
// who has too many old processes sets it by a reload, and means those.
const retireLook = time.Second

// awaitRetired waits until the last connection has ended, or the time is over that
// they have, or ctx.
func (d *daemon) awaitRetired(ctx context.Context, began time.Time) {
	for ctx.Err() == nil {
		look, timeout := retireLook, d.config.Load().Drain.UpgradeTimeout.D()
		if left := time.Until(began.Add(timeout)); timeout > 0 {
			if look = min(look, left); left <= 0 {
				return
			}
		}
		bounded, cancel := context.WithTimeout(ctx, look)
		d.retired(bounded)
		ended := bounded.Err() == nil
		if cancel(); ended {
			return
		}
	}
}
