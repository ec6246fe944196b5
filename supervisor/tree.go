package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/thejerf/suture/v4"
	"github.com/thejerf/sutureslog"

	"cleversocks/metrics"
	"cleversocks/supervisor/config"
)

// tree is the subtrees, by the order in which they end.
type tree struct {
	root    *suture.Supervisor
	control branch // the reloader, which opens and closes listeners
	ingress branch // accept services
	flows   branch // the connections, and what ends with them
	core    branch // what serves connections: resolver, users, limits, logs
	admin   branch // management, to the very end

	log     *slog.Logger
	metrics *metrics.Registry
}

// branch is a subtree and the token that removes it from the root.
type branch struct {
	*suture.Supervisor
	token suture.ServiceToken
}

// newTree makes the tree, not yet running. Nothing here may wait 15 seconds
// after a few failures, suture's default: a listener that fails must be back
// before its backlog is full.
func newTree(log *slog.Logger, m *metrics.Registry) *tree {
	hook := (&sutureslog.Handler{Logger: log, ServiceTerminateLevel: slog.LevelError}).MustHook()
	spec := suture.Spec{
		EventHook: func(e suture.Event) {
			switch e := e.(type) {
			case suture.EventServicePanic:
				m.Conn.Panics.Of("service").Inc()
				m.Daemon.Restarts(e.ServiceName).Inc()
			case suture.EventServiceTerminate:
				m.Daemon.Restarts(e.ServiceName).Inc()
			}
			hook(e)
		},
		FailureThreshold: 20,
		FailureBackoff:   500 * time.Millisecond,
		// The root waits for the longest drain of any subtree below it.
		Timeout: config.MaxDrain + drainSlack + ingressTimeout,
	}
	t := &tree{root: suture.New("cleversocks", spec), log: log, metrics: m}
	add := func(name string, timeout time.Duration) branch {
		of := spec
		of.Timeout = timeout
		sub := suture.New(name, of)
		return branch{sub, t.root.Add(sub)}
	}
	// A subtree is added before those that use it: the resolver is there before
	// the first connection, and connections before the listeners.
	t.admin = add("admin", coreTimeout)
	t.core = add("core", coreTimeout)
	t.flows = add("flows", config.MaxDrain+drainSlack)
	t.ingress = add("ingress", ingressTimeout)
	t.control = add("control", controlTimeout)
	return t
}

// service is one with a name.
type service interface {
	suture.Service
	fmt.Stringer
}

// add runs a service in a subtree. Its counter is there from the start: an
// alert on a series that appears with its first failure misses that one.
func (t *tree) add(b branch, s service) suture.ServiceToken {
	t.metrics.Daemon.Restarts(s.String())
	return b.Add(s)
}

// forget ends the counter of a service that a reload has removed for good.
func (t *tree) forget(name string) { t.metrics.Daemon.Forget(name) }

// remove ends a subtree and waits for it.
func (t *tree) remove(ctx context.Context, b branch, timeout time.Duration) {
	if err := t.root.RemoveAndWait(b.token, timeout); err != nil {
		t.log.LogAttrs(ctx, slog.LevelError, "did not stop in time", slog.String("subtree", b.Name), slog.Duration("timeout", timeout))
	}
}
