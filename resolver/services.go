package resolver

import (
	"context"
	"time"

	"cleversocks/conn/task"
)

const (
	tick          = time.Second      // probes and the system's files are looked at
	sweepInterval = 30 * time.Second // expired answers are dropped
	refreshers    = 2                // names refreshed at a time
)

// Service is a part of the resolver that works between look-ups. It runs until
// its context ends, and may be started again after a panic.
type Service interface {
	Serve(ctx context.Context) error
	String() string
}

// Services are what a supervisor is to run as long as the resolver is in use:
// without them it answers, but keeps what is stale, and asks dead servers.
func (r *Resolver) Services() []Service {
	return []Service{
		loop{name: "resolver refresher", run: r.refreshNames},
		loop{name: "resolver prober", run: r.probeServers},
		loop{name: "resolver watcher", run: every(tick, func(time.Time) { r.watch() })},
		loop{name: "resolver sweeper", run: every(sweepInterval, func(now time.Time) { r.state.Load().cache.sweep(now) })},
	}
}

// loop is a Service.
type loop struct {
	name string
	run  func(ctx context.Context) error
}

// Serve runs until the context ends.
func (l loop) Serve(ctx context.Context) error { return l.run(ctx) }

// String names the service in logs and metrics.
func (l loop) String() string { return l.name }

// every does something once an interval.
func every(interval time.Duration, do func(now time.Time)) func(context.Context) error {
	return func(ctx context.Context) error {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case now := <-ticker.C:
				do(now)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// probeServers looks at servers in doubt, and at dead ones, each by itself.
func (r *Resolver) probeServers(ctx context.Context) error {
	scope, ctx := task.New(ctx, r.panics, "dns probe")
	err := every(tick, func(now time.Time) {
		for _, s := range r.state.Load().servers {
			if s.probeDue(now) {
				scope.Go(func() error { s.probe(ctx); return nil })
			}
		}
	})(ctx)
	if panicked := scope.Wait(); panicked != nil {
		return panicked
	}
	return err
}

// refreshNames asks anew for names that are queued for it.
func (r *Resolver) refreshNames(ctx context.Context) error {
	scope, ctx := task.New(ctx, r.panics, "dns refresh")
	for range refreshers {
		scope.Go(func() error {
			for {
				select {
				case q := <-r.refresh:
					r.refreshName(ctx, q)
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		})
	}
	return scope.Wait()
}

func (r *Resolver) refreshName(ctx context.Context, q question) {
	st := r.state.Load()
	f, err := r.join(ctx, st, q)
	if err != nil {
		return
	}
	defer r.leave(f)
	select {
	case <-f.done:
		if f.err != nil {
			st.cache.refreshEnded(q)
		}
	case <-ctx.Done():
	}
}
