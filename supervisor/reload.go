package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"time"

	"github.com/thejerf/suture/v4"

	"cleversocks/authsvc/shared"
	"cleversocks/conn"
	"cleversocks/conn/task"
	"cleversocks/metrics"
	"cleversocks/metrics/admin"
	"cleversocks/supervisor/config"
	"cleversocks/supervisor/upgrade"
)

// reloader is the actor that all parts belong to. The first configuration is
// installed by whoever made it, before Serve; after that, only Serve's
// goroutine touches the parts, and others ask it over its channel.
type reloader struct {
	load     func() (*config.Config, error)
	loadText func([]byte) (*config.Config, error) // what a successor has in force
	log      *slog.Logger
	metrics  *metrics.Registry
	panics   *task.Reporter
	parts    []part
	// confined may be why a file cannot be read.
	confined *confinement
	sockets  *listeners // also among parts
	people   *people    // those of the parts that other accounts touch

	installed *config.Config // in force
	started   *config.Config // the first
	policies  uint64         // made so far
	generated uint64         // the one in force

	upgrader *upgrader
	notify   *notifier
	over     chan struct{} // closed when a successor has taken over
	ended    chan struct{} // closed when nothing is reloaded any more, as the daemon stops
	requests chan request
	signals  chan struct{}         // 1: requests without a reply, which coalesce
	noted    func(error)           // is told how each reload went
	rotate   func(context.Context) // reopens the logs as they are; nil: there are none
	remains  []part                // of a process that drains: who may go on, and where to
}

// request asks for work on the reloader's goroutine; the reply is given once and
// is buffered.
type request struct {
	work  func(ctx context.Context) error
	reply chan error
}

func (r *reloader) String() string { return "reloader" }

// signal asks for a reload and does not wait; several in a row are one.
func (r *reloader) signal() {
	select {
	case r.signals <- struct{}{}:
	default:
	}
}

// Reload reads the settings again and puts them in force. Its error says why
// the old ones stay.
func (r *reloader) Reload(ctx context.Context) error { return r.do(ctx, r.reload) }

// do has the reloader's goroutine do some work, between reloads, and waits for
// it.
func (r *reloader) do(ctx context.Context, work func(ctx context.Context) error) error {
	reply := make(chan error, 1)
	select {
	case r.requests <- request{work, reply}:
	case <-r.over:
		return errSuperseded
	case <-r.ended:
		return errStops
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-reply:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// errSuperseded refuses a reload by who does not serve any more.
var errSuperseded = admin.Busy("a successor serves by now: ask again, and it will answer")

// errStops refuses what a daemon that drains does not begin any more. Who asked waited
// for the end of the drain.
var errStops = admin.Busy("the daemon stops, and changes nothing any more")

// mendEvery is how often the files of unix sockets are looked at: a system call
// each.
const mendEvery = 2 * time.Second

// Serve reloads and upgrades on request until ctx ends, or a successor serves.
func (r *reloader) Serve(ctx context.Context) error {
	mend := time.NewTicker(mendEvery)
	defer mend.Stop()
	for {
		select {
		case <-mend.C:
			r.sockets.mend(ctx)
		case <-r.signals:
			_ = r.reload(ctx) // it is logged
		case q := <-r.requests:
			q.reply <- r.panics.Contain(ctx, "reload", func() error { return q.work(ctx) })
		case q := <-r.upgrader.requests:
			if r.upgrader.run(ctx, q) {
				close(r.over)
				return suture.ErrDoNotRestart
			}
		case <-ctx.Done():
			close(r.ended)
			return errors.Join(suture.ErrDoNotRestart, ctx.Err())
		}
	}
}

func (r *reloader) reload(ctx context.Context) error {
	r.notify.reloading(ctx, "reloading")
	err := r.try(ctx)
	r.upgrader.predecessors.reload(err == nil)
	if ctx.Err() == nil {
		status := "serving"
		if err != nil {
			status = "serving by the configuration of before: the last reload failed"
		}
		r.notify.ready(ctx, status)
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		r.log.LogAttrs(ctx, slog.LevelWarn, "reload abandoned: the daemon stops")
		return err
	}
	if err != nil {
		r.metrics.Daemon.Reloads.Of("failed").Inc()
		r.metrics.Daemon.Loaded(false)
		r.noted(err)
		if r.rotate != nil { // what renamed them waits for that, whatever else is wrong
			r.rotate(ctx)
		}
		r.log.LogAttrs(ctx, slog.LevelError, "reload failed: the old configuration stays", slog.Any("err", err))
		return err
	}
	r.metrics.Daemon.Reloads.Of("ok").Inc()
	r.noted(nil)
	r.log.LogAttrs(ctx, slog.LevelInfo, "reloaded", slog.Uint64("generation", r.generated))
	return nil
}

func (r *reloader) try(ctx context.Context) error {
	// A file system or a name server that hangs does not hold up the end.
	cfg, err := await(ctx, r.panics, "reload", r.load)
	if err != nil {
		return r.confined.explain(err)
	}
	if err := r.install(ctx, cfg); err != nil {
		return r.confined.explain(err)
	}
	r.warn(ctx)
	for _, key := range needRestart(r.started, cfg) {
		r.log.LogAttrs(ctx, slog.LevelWarn, "this setting changed and needs a restart to take effect", slog.String("key", key))
	}
	return nil
}

// follow is a reload of a process that drains, whose successor was asked for
// one: nothing is opened or accepted any more, but a user who was taken out, or
// a rule, must not count in one process alone. It tells how many sessions that
// has ended. The settings are those that the successor has in force: somebody may have
// edited their file since, and not mean it yet. It is called when Serve has ended.
func (r *reloader) follow(ctx context.Context, s upgrade.Settings) (ended int) {
	r.rotate(ctx)
	cfg, err := await(ctx, r.panics, "reload", func() (*config.Config, error) { return r.loadText(s.Text) })
	if err == nil {
		r.policies++
		policy := *r.people.group.Policy()
		policy.Generation, policy.Revoke = r.policies, cfg.Reload.Revoke
		next := &draft{cfg: cfg, old: r.installed, own: r.sockets.addresses(), policy: &policy}
		err = install(ctx, append(r.remains, onCommit(func(ctx context.Context, _ *draft) {
			ended = r.people.group.EndLapsed() + revoke(ctx, r.people.group, r.log)
			r.people.lapses.reconsider()
		})), next, r.panics)
	}
	if err == nil {
		r.installed = cfg // which the next is compared with
	}
	if err != nil && ctx.Err() == nil {
		r.log.LogAttrs(ctx, slog.LevelWarn, "draining: connections go on under the settings of before", slog.Any("err", err))
	}
	return ended
}

// install puts a configuration in force, or says why not; then nothing has
// changed.
func (r *reloader) install(ctx context.Context, cfg *config.Config) error {
	r.policies++
	d := &draft{cfg: cfg, old: r.installed, policy: &conn.Policy{Generation: r.policies, Revoke: cfg.Reload.Revoke}}
	if err := install(ctx, r.parts, d, r.panics); err != nil {
		return err
	}
	r.installed, r.generated = cfg, d.policy.Generation
	r.metrics.Daemon.Loaded(true)
	if r.started == nil {
		r.started = cfg
	}
	announceAccess(ctx, cfg, d.policy, d.users.Len(), r.log)
	return nil
}

// warn logs what is allowed and yet hardly meant.
func (r *reloader) warn(ctx context.Context) {
	cfg := r.installed
	for _, w := range slices.Concat(cfg.Warnings, cfg.Exposed(r.sockets.names, r.sockets.exposed), foreignSources(ctx, cfg),
		killedSooner(cfg, os.Getpid(), os.Getenv("KUBERNETES_SERVICE_HOST"))) {
		r.log.LogAttrs(ctx, slog.LevelWarn, "configuration", slog.String("warning", w))
	}
}

// errOpens refuses to open a proxy that asked for passwords because a file is
// empty or was cut short: that is more likely than a change of mind.
var errOpens = errors.New("auth.required: nothing in the settings asks for a log-in any more, which would open the proxy: write required = false if that is meant")

// staysClosed refuses what errOpens says: by a reload, and by an upgrade, which
// is one.
type staysClosed struct{ from *upgrade.Predecessor }

// Prepare refuses it.
func (s staysClosed) Prepare(_ context.Context, d *draft) (change, error) {
	closed := s.from != nil && s.from.Hello.LogIn
	if d.old != nil {
		closed = d.old.Auth.Required
	}
	if closed && !d.cfg.Auth.Required && d.cfg.Auth.Mode == config.Auto {
		return nil, fmt.Errorf("%w: %w", config.ErrInvalid, errOpens)
	}
	return nil, nil //nolint:nilnil // nothing to commit
}

// asWritten is the [shared_state] section without what files hold: pools of
// certificates do not compare.
func asWritten(cfg *config.Config) config.SharedState {
	s := cfg.SharedState
	s.Target = shared.Target{}
	return s
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
		{"shared_state", asWritten(old), asWritten(cfg)},
	} {
		if !reflect.DeepEqual(setting.a, setting.b) {
			keys = append(keys, setting.key)
		}
	}
	return keys
}
