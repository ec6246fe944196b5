package supervisor

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"cleversocks/conn"
	"cleversocks/conn/upstream"
	"cleversocks/metrics/admin"
	"cleversocks/resolver"
)

// status is the daemon at a glance. It is asked every other second by each
// page that is open.
func (o *operator) status() admin.Status {
	s := admin.Status{
		Version: o.options.Version, Commit: o.options.Commit, Started: o.started, Ready: true, Degraded: o.degraded(),
		Draining: o.phase.Load() == phaseDraining, Generation: o.group.Policy().Generation,
		Connections: o.group.Active(), Limit: o.group.Limit(), Accepted: o.group.Accepted(),
		BytesIn: o.metrics.Relay.BytesIn.Get(), BytesOut: o.metrics.Relay.BytesOut.Get(),
		Refused: make(map[string]uint64), LogLevel: o.options.Level(), Listeners: []string{}, API: o.config().Admin.Token.IsSet(),
	}
	if err := o.ready(); err != nil {
		s.Ready, s.Reason = false, err.Error()
	}
	count := func(reason string, n uint64) { s.Refused[reason] += n }
	o.metrics.Listener.Refused.Each(count)
	o.metrics.Conn.Refused.Each(count)
	if names := o.names.Load(); names != nil {
		s.Listeners = append(s.Listeners, *names...)
	}
	s.PID, s.Sandbox = os.Getpid(), o.confined.status()
	for _, e := range o.predecessors.list() {
		s.Predecessors = append(s.Predecessors, admin.Predecessor{PID: e.Hello.PID, Connections: int(e.connections.Load())})
	}
	s.CPU, s.Memory = ownUsage()
	o.mu.Lock()
	s.Reload = o.lastReload
	o.mu.Unlock()
	return s
}

// ownUsage is the process's CPU time in seconds and its resident memory.
func ownUsage() (cpu float64, memory uint64) {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) == nil {
		cpu = time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
	}
	if statm, err := os.ReadFile("/proc/self/statm"); err == nil { // proc_pid_statm(5)
		var size, resident uint64
		if _, err := fmt.Sscan(string(statm), &size, &resident); err == nil {
			memory = resident * uint64(os.Getpagesize())
		}
	}
	return cpu, memory
}

// degraded is what does not work while the daemon is ready: an outage that
// every replica has must not take all of them out.
func (o *operator) degraded() []string {
	var all []string
	policy := o.group.Policy()
	if policy == nil {
		return nil
	}
	servers := o.resolver.Servers()
	if !slices.ContainsFunc(servers, func(s resolver.ServerState) bool { return !s.Dead }) {
		all = append(all, fmt.Sprintf("none of the %d name servers answers", len(servers)))
	}
	if what := o.degradedFleet(); what != "" {
		all = append(all, what)
	}
	for _, p := range policy.Routes.Pools() {
		if !slices.ContainsFunc(p.Status(), memberWorks) {
			all = append(all, "upstream "+p.Name()+" has no member that works")
		}
	}
	return all
}

// sessions are the connections of now, with their rates, those of processes that
// drain too.
func (o *operator) sessions(ctx context.Context) []admin.Session {
	list := append(o.sessionsHere(admin.SessionFilter{}), o.predecessors.sessions(ctx, admin.SessionFilter{})...)
	o.rates.fill(list, time.Now())
	return list
}

// sessionsHere are the connections of this process that match, without rates.
func (o *operator) sessionsHere(filter admin.SessionFilter) []admin.Session {
	records := o.group.Sessions()
	list := make([]admin.Session, 0, len(records))
	for _, r := range records {
		if s := sessionOf(r); filter.Matches(&s) {
			list = append(list, s)
		}
	}
	return list
}

func sessionOf(r *conn.Record) admin.Session {
	s := admin.Session{
		ID: r.ID, Listener: r.Listener, Client: r.Caller(), Started: r.Started, Handshake: r.Handshake && !r.Requests, Requests: r.Requests,
		User: text(r.User), Auth: r.Auth, Upstream: r.Upstream, Rule: r.Rule, BytesIn: r.BytesIn, BytesOut: r.BytesOut,
	}
	if r.Handshake {
		return s
	}
	s.Protocol, s.Command = r.Protocol.String(), commandOf(r)
	if r.Target.IsName() || r.Target.IP.IsValid() {
		s.Target = text(r.Target.String())
	}
	if r.Host.IsValid() {
		s.HostIP = r.Host.String()
	}
	if r.Local.IsValid() {
		s.Local = r.Local.String()
	}
	return s
}

func commandOf(r *conn.Record) string {
	if r.Command == 0 {
		return ""
	}
	return r.Command.String()
}

// closeHere closes those that match in this process.
func (o *operator) closeHere(ctx context.Context, filter admin.SessionFilter) int {
	return o.group.Kill(ctx, func(r *conn.Record) bool {
		s := sessionOf(r)
		return filter.Matches(&s)
	})
}

// closeOnHost closes those that match, in processes that drain too.
func (o *operator) closeOnHost(ctx context.Context, filter admin.SessionFilter) int {
	return o.closeHere(ctx, filter) + o.predecessors.end(ctx, askClose, filter)
}

// rates remembers what sessions had moved some seconds ago. The zero value
// knows nothing.
type rates struct {
	mu     sync.Mutex
	at     time.Time
	before map[string][2]int64 // in and out, by id
	rate   map[string][2]float64
}

// rateInterval is the least time over which rates are taken.
const rateInterval = time.Second

// fill writes the rates into a list of all sessions.
func (r *rates) fill(list []admin.Session, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if passed := now.Sub(r.at); passed >= rateInterval {
		moved, rate := make(map[string][2]int64, len(list)), make(map[string][2]float64, len(list))
		for _, s := range list {
			moved[s.ID] = [2]int64{s.BytesIn, s.BytesOut}
			since := passed.Seconds()
			before, known := r.before[s.ID]
			if !known {
				since = max(now.Sub(s.Started).Seconds(), rateInterval.Seconds())
			}
			rate[s.ID] = [2]float64{float64(s.BytesIn-before[0]) / since, float64(s.BytesOut-before[1]) / since}
		}
		r.at, r.before, r.rate = now, moved, rate
	}
	for i := range list {
		rate := r.rate[list[i].ID]
		list[i].RateIn, list[i].RateOut = rate[0], rate[1]
	}
}

func memberWorks(m upstream.MemberStatus) bool { return m.Up && !m.Drained }
