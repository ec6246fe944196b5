package supervisor

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"cleversocks/authsvc"
	"cleversocks/authsvc/shared"
	"cleversocks/metrics"
	"cleversocks/metrics/admin"
	"cleversocks/supervisor/config"
)

// join makes the guards a part of a fleet, if the settings name a store. What
// the fleet wants of the rest of the daemon is set before it runs: see
// operator.joins.
func (g *guards) join(cfg *config.Config, log *slog.Logger, m *metrics.Registry) {
	s := &cfg.SharedState
	if !s.URL.IsSet() {
		return
	}
	g.fleet = shared.New(shared.Options{
		Target: s.Target, Prefix: s.Prefix, Replica: s.Replica, Timeout: s.Timeout.D(), Deny: s.OnError == config.OnErrorDeny,
		Throttle: g.Throttle, Once: g.once, Quotas: g.Quotas, Log: log, Metrics: m.Shared, Panics: reporter(log, m),
	})
	g.Users.Join(g.fleet)
	g.Unsure = g.fleet.Unsure
}

// storePatience is how long a start waits for the store. A successor waits while
// its predecessor still serves.
const storePatience = 500 * time.Millisecond

// meetStore connects to the shared state, if there is one, so that the first
// connections are counted there too. Without it the start goes on.
func (d *daemon) meetStore(ctx context.Context, fleet *shared.Store) {
	if fleet == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, storePatience)
	defer cancel()
	_, _ = await(ctx, d.panics, "shared", func() (struct{}, error) { return struct{}{}, fleet.Meet(ctx) }) // its service says what is wrong
}

// out says whom other replicas have put out; nil: there are none.
func (g *guards) out() func(user string) bool {
	if g.fleet == nil {
		return nil
	}
	return g.fleet.Out
}

// putOut tells the fleet whom these settings have disabled.
func (g *guards) putOut(users *authsvc.Users) {
	if g.fleet == nil {
		return
	}
	var names []string
	users.Accounts(func(a *authsvc.Account) {
		if a.Validity.Disabled {
			names = append(names, a.Name)
		}
	})
	g.fleet.PutOut(names)
}

// joins gives the fleet what it tells of this replica, and what it does when
// others tell of theirs. ended looks at the sessions of users who are out.
func (o *operator) joins(ended func()) {
	if o.guards.fleet == nil {
		return
	}
	o.guards.fleet.Hook(shared.Hooks{
		About: o.about, Out: ended,
		Kill: func(ctx context.Context, what []byte) {
			var filter admin.SessionFilter
			if json.Unmarshal(what, &filter) == nil && !filter.IsZero() {
				o.closeOnHost(ctx, filter)
			}
		},
	})
}

// about is this replica as the others show it.
func (o *operator) about() shared.About {
	a := shared.About{
		Version: o.options.Version, Started: o.started, Connections: o.group.Active(), Limit: o.group.Limit(),
		Draining: o.phase.Load() == phaseDraining,
	}
	if policy := o.group.Policy(); policy != nil {
		a.Generation = policy.Generation
	}
	if cfg := o.config(); cfg != nil && !cfg.Admin.Address.IsZero() {
		a.Admin = cfg.Admin.Address.String()
	}
	return a
}

// replicas are those of the fleet; none where this daemon is alone.
func (o *operator) replicas(ctx context.Context) ([]shared.Replica, error) {
	if o.guards.fleet == nil {
		return nil, nil
	}
	return o.guards.fleet.Replicas(ctx)
}

// listFleet is the replicas for an operator; the zero Fleet where this daemon is
// alone.
func (o *operator) listFleet(ctx context.Context) admin.Fleet {
	f := admin.Fleet{Replicas: []admin.Replica{}}
	if o.guards.fleet == nil {
		return f
	}
	f.Replica, f.ID = text(o.guards.fleet.Name()), text(o.guards.fleet.ID())
	f.Degraded = o.guards.fleet.Trouble()
	all, err := o.replicas(ctx)
	if err != nil {
		f.Degraded = cmp.Or(f.Degraded, err.Error())
	}
	for _, r := range all {
		f.Replicas = append(f.Replicas, admin.Replica{
			Name: text(r.Name), ID: text(r.ID), Self: r.Self, LastBeat: r.LastBeat, Admin: r.About.Admin, Version: r.About.Version,
			Started: r.About.Started, Generation: r.About.Generation, Connections: r.About.Connections, Limit: r.About.Limit, Draining: r.About.Draining,
		})
	}
	return f
}

// replicaOf is the name of the replica that made a ban; "" where this daemon is
// alone.
func (o *operator) replicaOf(b authsvc.Ban) string {
	if b.Replica == "" && o.guards.fleet != nil {
		return o.guards.fleet.Name()
	}
	return b.Replica
}

// addFleet adds to users what they have on other replicas.
func (o *operator) addFleet(ctx context.Context, byName map[string]*admin.User) {
	all, err := o.replicas(ctx)
	if err != nil || len(all) == 0 {
		return // what is here is all that is known
	}
	here := make(map[string]int) // a process that drains is a replica of its own
	for _, r := range o.group.Sessions() {
		if !r.Handshake {
			here[r.User]++
		}
	}
	for name, u := range byName {
		u.FleetConnections = here[name]
		for _, r := range all {
			n := r.Users[name]
			if r.Self {
				n = here[name]
			} else {
				u.FleetConnections += n
			}
			if n > 0 {
				u.Replicas = append(u.Replicas, admin.ReplicaShare{Replica: text(r.Name), Connections: n})
			}
		}
	}
}

// maxSynced bounds the users whose quotas are asked for at once.
const maxSynced = 1000

// syncQuotas has the usage of quotas be the fleet's, for who looks at it.
func (o *operator) syncQuotas(ctx context.Context) {
	if o.guards.fleet == nil {
		return
	}
	var limited []*authsvc.Account
	o.users.Load().Accounts(func(a *authsvc.Account) {
		if a.QuotaBytes > 0 {
			limited = append(limited, a)
		}
	})
	o.guards.fleet.Sync(ctx, limited[:min(len(limited), maxSynced)])
}

// closeSessions closes those that match here, and has the other replicas do the
// same. An id is of one replica alone.
func (o *operator) closeSessions(ctx context.Context, filter admin.SessionFilter) int {
	if o.guards.fleet != nil && filter.ID == "" {
		if what, err := json.Marshal(filter); err == nil { // its types are ours
			o.guards.fleet.Killed(what)
		}
	}
	return o.closeOnHost(ctx, filter)
}

// degradedFleet is what is wrong with the shared state; "": nothing.
func (o *operator) degradedFleet() string {
	if o.guards.fleet == nil {
		return ""
	}
	return o.guards.fleet.Degraded()
}
