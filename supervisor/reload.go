package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"

	"cleversocks/supervisor/config"
)

// reloader applies the settings anew on SIGHUP: it verifies all, then swaps
// one snapshot. What fails to verify leaves everything as it was.
type reloader struct {
	d       *daemon
	signals chan struct{} // 1: signals coalesce
}

func newReloader(d *daemon) *reloader {
	return &reloader{d: d, signals: make(chan struct{}, 1)}
}

func (r *reloader) String() string { return "reloader" }

// request asks for a reload; several in a row are one.
func (r *reloader) request() {
	select {
	case r.signals <- struct{}{}:
	default:
	}
}

// Serve reloads on request until ctx ends.
func (r *reloader) Serve(ctx context.Context) error {
	for {
		select {
		case <-r.signals:
			r.reload(ctx)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *reloader) reload(ctx context.Context) {
	d := r.d
	err := r.try(ctx)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		d.log.LogAttrs(ctx, slog.LevelWarn, "reload abandoned: the daemon stops")
		return
	}
	if err != nil {
		d.metrics.Daemon.Reloads.Of("failed").Inc()
		d.log.LogAttrs(ctx, slog.LevelError, "reload failed: the old configuration stays", slog.Any("err", err))
		return
	}
	d.metrics.Daemon.Reloads.Of("ok").Inc()
	d.log.LogAttrs(ctx, slog.LevelInfo, "reloaded", slog.Uint64("generation", d.group.Policy().Generation))
}

// load reads the settings. A file system or a name server that hangs does not
// hold up the daemon's end.
func (r *reloader) load(ctx context.Context) (*config.Config, error) {
	type outcome struct {
		cfg *config.Config
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		cfg, err := r.d.options.Load()
		done <- outcome{cfg, err}
	}()
	select {
	case out := <-done:
		return out.cfg, errors.Join(out.err, ctx.Err())
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// errOpens refuses to open a proxy that asked for passwords because a file is
// empty or was cut short: that is more likely than a change of mind.
var errOpens = errors.New("auth.required: nothing in the settings asks for a log-in any more, which would open the proxy: write required = false if that is meant")

func (r *reloader) try(ctx context.Context) error {
	d := r.d
	cfg, err := r.load(ctx)
	if err != nil {
		return err
	}
	if d.config.Load().Auth.Required && !cfg.Auth.Required && cfg.Auth.Mode == config.Auto {
		return errOpens
	}
	change, err := d.verifyAndOpen(ctx, cfg)
	if err != nil {
		return err
	}
	if err := d.apply(ctx, cfg, change); err != nil {
		if undo := change.rollback(ctx); undo != nil {
			d.log.LogAttrs(ctx, slog.LevelError, "a listener could not be opened again", slog.Any("err", undo))
		}
		return err
	}
	d.warn(ctx, cfg)
	for _, key := range needRestart(d.started, cfg) {
		d.log.LogAttrs(ctx, slog.LevelWarn, "this setting changed and needs a restart to take effect", slog.String("key", key))
	}
	return nil
}

// apply builds everything from the settings and, when all of it is good,
// makes it the daemon's.
func (d *daemon) apply(ctx context.Context, cfg *config.Config, change *change) error {
	policy, users, err := d.builder.build(cfg, change.addresses(), d.adminAt)
	if err != nil {
		return err
	}
	resolve, err := d.resolver.Prepare(d.resolverOptions(cfg))
	if err != nil {
		d.routes.abandon(policy.Routes)
		return fmt.Errorf("resolver: %w", err)
	}
	if err := d.options.ApplyLog(cfg.Log); err != nil {
		d.routes.abandon(policy.Routes)
		resolve.Rollback()
		return err
	}
	resolve.Commit()
	policy.Listeners = change.policies()
	d.access.SetMode(accessMode(cfg.Log.Access))
	d.setGuards(cfg, users)
	d.builder.commands.configure(cfg)
	old := d.routes.inForce()
	d.group.SetPolicy(policy)
	d.routes.commit(ctx, old, policy.Routes)
	d.group.SetLimit(d.connectionLimit(ctx, cfg.Limits.MaxConnections))
	d.config.Store(cfg)
	change.commit(ctx)
	d.announceAccess(ctx, cfg, policy, users.Len())
	if n := d.group.Revoke(); n > 0 {
		d.log.LogAttrs(ctx, slog.LevelInfo, "sessions revoked by a reload", slog.Int("sessions", n))
	}
	if d.idle != nil {
		d.idle.reconsider()
		d.interim.Reconsider()
	}
	return nil
}

// needRestart names the settings that a reload cannot change and that are not
// those in force, which are those of the start: a second reload of the same
// file says it again, and one that takes the change back says nothing.
func needRestart(old, cfg *config.Config) []string {
	var keys []string
	for _, setting := range []struct {
		key  string
		a, b any
	}{
		{"admin.address", old.Admin.Address, cfg.Admin.Address},
		{"state.directory", old.State.Directory, cfg.State.Directory},
		{"admin.pprof", old.Admin.Pprof, cfg.Admin.Pprof},
	} {
		if !reflect.DeepEqual(setting.a, setting.b) {
			keys = append(keys, setting.key)
		}
	}
	return keys
}
