package supervisor

import (
	"context"
	"io"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cleversocks/authsvc"
	"cleversocks/conn"
	"cleversocks/conn/netaddr"
	"cleversocks/conn/upstream"
	"cleversocks/metrics"
	"cleversocks/metrics/admin"
	"cleversocks/resolver"
	"cleversocks/supervisor/config"
	"cleversocks/supervisor/usage"
)

// operator is what the management API tells and does: the daemon as people see
// and steer it.
type operator struct {
	options      Options
	started      time.Time
	config       func() *config.Config
	metrics      *metrics.Registry
	guards       *guards
	group        *conn.Group
	resolver     *resolver.Resolver
	ready        func() error
	confined     *confinement
	phase        *atomic.Int32
	asked        chan<- struct{}
	reload       func(context.Context) error
	edit         func(context.Context, *userEdit) error
	hashing      *authsvc.Queue // of the passwords of users who are added or changed
	upgrade      func(context.Context) (pid int, err error)
	predecessors *predecessors
	users        atomic.Pointer[authsvc.Users] // in force
	names        atomic.Pointer[[]string]      // of the listeners

	events  *admin.Events
	usage   *usage.Usage
	rates   rates
	denials denials
	tidings tidings

	mu         sync.Mutex
	lastReload *admin.Reload
}

func newOperator(d *daemon, m *metrics.Registry, c *core, ready func() error) *operator {
	o := &operator{
		options: d.options, started: time.Now(), config: d.config.Load, metrics: m, guards: c.guards, group: c.group,
		resolver: c.resolver, predecessors: d.predecessors, ready: ready, confined: d.confined, phase: d.phase, asked: d.asked,
		events: admin.NewEvents(m.Limits.Of(metrics.LimitEventStreams).Inc, m.Limits.Of(metrics.LimitEventQueue).Inc),
	}
	o.usage = c.usage
	d.predecessors.handOn = o.handOn
	c.guards.Throttle.OnBan(func(b authsvc.Ban) {
		ban := o.banOf(b)
		event := admin.Event{Time: time.Now(), Ban: &ban}
		if c.guards.fleet != nil { // a successor hears of it there
			o.events.Publish("banned", event)
			return
		}
		o.publish("banned", event)
	})
	c.access.Watch(o.seen, func() bool { return o.wantsSessions() || o.usage.Wanted() })
	return o
}

func (o *operator) functions() admin.API {
	return admin.API{
		Token:  func() string { return o.config().Admin.Token.Reveal() },
		Status: o.status, Sessions: o.sessions, CloseSessions: o.closeSessions, Users: o.listUsers, Fleet: o.listFleet,
		User: o.oneUser, AddUser: o.addUser, ChangeUser: o.changeUser, RemoveUser: o.removeUser,
		ImportUsers: o.importUsers, ResetUsage: o.resetUsage,
		Explain: func(ctx context.Context, v url.Values) (admin.Explanation, error) {
			return explainer{policy: o.group.Policy(), look: o.resolver.Lookup, bans: o.guards.Throttle.Bans}.judge(ctx, questionOf(v))
		},
		Whitelist: func() []admin.WhitelistEntry { return listWhitelist(o.guards.once) },
		Admit:     o.admit, Revoke: o.revoke,
		Bans: o.listBans, Impose: o.impose, Lift: o.lift,
		Upstreams: o.upstreams, DrainMember: o.drainMember,
		Names: o.cachedNames, FlushNames: func(name string) int { return o.resolver.Flush(normal(name)) },
		Config: func(w io.Writer) error { cfg := o.config(); return cfg.WriteTOML(w, InForce(cfg), config.Masked) },
		Reload: o.reloadNow, Upgrade: o.upgradeNow, Drain: o.drain, Level: o.options.Level, SetLevel: o.setLevel,
		Denials: o.denials.list, Events: o.events,
	}
}

// text is a name as JSON can hold it.
func text(name string) string { return strings.ToValidUTF8(name, "\uFFFD") }

// normal is a name as the cache has it.
func normal(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// seen is told of every connection that begins to relay or has ended, and of what
// acl.report_only let pass, by the access log's goroutine.
func (o *operator) seen(r *conn.Record) {
	now := time.Now()
	if r.Reported != nil {
		d := denialOf(r, r.Reported, now)
		o.denials.add(d)
		o.publish("reported", admin.Event{Time: now, Denial: &d})
		return
	}
	if r.Dropped != nil {
		d := denialOf(r, r.Dropped, now)
		o.denials.add(d)
		o.publish("denied", admin.Event{Time: now, Denial: &d})
		return
	}
	o.usage.Session(usageOf(r))
	event := admin.Event{Time: now, Cause: r.Cause}
	if denied := r.Denied(); denied != nil {
		d := denialOf(r, denied, now)
		o.denials.add(d)
		event.Denial = &d
		o.publish("denied", event)
		return
	}
	if !o.wantsSessions() {
		return
	}
	s := sessionOf(r)
	event.Session = &s
	if r.Opened {
		o.publish("opened", event)
		return
	}
	o.publish("closed", event)
}

// wantsSessions says whether anybody follows sessions, here or at a successor.
func (o *operator) wantsSessions() bool { return o.events.Wanted() || o.tidings.wanted() }

func (o *operator) noteReload(err error) {
	r := admin.Reload{Time: time.Now(), OK: err == nil}
	if err != nil {
		r.Error = text(err.Error())
	}
	o.mu.Lock()
	o.lastReload = &r
	o.mu.Unlock()
	o.events.Publish("reloaded", admin.Event{Time: r.Time, Reload: &r})
}

// reloadNow reloads and says how it went.
func (o *operator) reloadNow(ctx context.Context) admin.Reload {
	if err := o.reload(ctx); err != nil {
		return admin.Reload{Time: time.Now(), Error: text(err.Error())}
	}
	return admin.Reload{Time: time.Now(), OK: true, Warnings: o.config().Warnings}
}

// upgradeNow hands over to a successor and says how it went.
func (o *operator) upgradeNow(ctx context.Context) admin.Upgrade {
	pid, err := o.upgrade(ctx)
	u := admin.Upgrade{Time: time.Now(), OK: err == nil, PID: pid}
	if err != nil {
		u.Error = text(err.Error())
	}
	return u
}

func (o *operator) drain() {
	select {
	case o.asked <- struct{}{}:
	default: // it was asked for already
	}
}

func (o *operator) setLevel(level string) error {
	if !o.options.SetLevel(level) {
		return admin.BadInput("level: error, warn, info, debug or trace")
	}
	return nil
}

// admit lets an address in as a user, as auth-once does.
func (o *operator) admit(a admin.Admission) (admin.WhitelistEntry, error) {
	none := admin.WhitelistEntry{}
	addr, err := netip.ParseAddr(a.Address)
	if err != nil {
		return none, admin.BadInput("address: " + a.Address + " is not an IP address")
	}
	if !o.config().Auth.Once.Enabled {
		return none, admin.BadInput("auth.once is not enabled: nobody is let in by address")
	}
	id, known := o.users.Load().Vouch(a.User)
	if !known {
		return none, admin.BadInput("user: there is no such user")
	}
	addr = addr.Unmap()
	o.guards.once.Add(addr, id)
	for _, e := range listWhitelist(o.guards.once) {
		if e.Address == addr.String() {
			return e, nil
		}
	}
	return none, admin.NotFound("the entry is gone again")
}

func (o *operator) revoke(address string) (bool, error) {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return false, admin.BadInput(address + " is not an IP address")
	}
	return o.guards.once.Revoke(addr.Unmap()), nil
}

// sourceOf reads an address, or a range as bans are listed by: a /32, or the
// /64 that counts as one; or a local user.
func sourceOf(source string) (netip.Addr, error) {
	addr, err := netaddr.ParseSource(source)
	if err != nil {
		return netip.Addr{}, admin.BadInput(err.Error())
	}
	return addr, nil
}

func (o *operator) impose(source string, length time.Duration) (admin.Ban, error) {
	addr, err := sourceOf(source)
	if err != nil {
		return admin.Ban{}, err
	}
	if length == 0 {
		length = o.config().Limits.AuthFailures.BanMax.D()
	}
	b, ok := o.guards.Throttle.Impose(addr, length)
	if !ok {
		return admin.Ban{}, admin.BadInput("limits.auth_failures.max is 0, or limits.exempt has the source: it cannot be banned")
	}
	ban := o.banOf(b)
	o.events.Publish("banned", admin.Event{Time: time.Now(), Ban: &ban})
	return ban, nil
}

func (o *operator) lift(source string) (bool, error) {
	addr, err := sourceOf(source)
	if err != nil {
		return false, err
	}
	return o.guards.Throttle.Lift(addr), nil
}

func listWhitelist(once *authsvc.Once) []admin.WhitelistEntry {
	list := []admin.WhitelistEntry{}
	for _, e := range once.List() {
		list = append(list, admin.WhitelistEntry{
			Address: e.Addr.String(), User: text(e.User), Method: string(e.By), Since: e.Since, Until: e.Until,
		})
	}
	return list
}

func (o *operator) listBans() []admin.Ban {
	list := []admin.Ban{}
	for _, b := range o.guards.Throttle.Bans() {
		list = append(list, o.banOf(b))
	}
	return list
}

func (o *operator) banOf(b authsvc.Ban) admin.Ban {
	return admin.Ban{Source: netaddr.SourceText(b.Source), Since: b.Since, Until: b.Until, Level: b.Level, Replica: text(o.replicaOf(b))}
}

func (o *operator) upstreams() []admin.Upstream {
	list := []admin.Upstream{}
	for _, p := range o.pools() {
		u := admin.Upstream{Name: p.Name(), Members: []admin.Member{}}
		for _, m := range p.Status() {
			u.Members = append(u.Members, admin.Member{
				Name: m.Member, Up: m.Up, Drained: m.Drained, Active: m.Active, Warm: m.Warm, Latency: m.Latency.Seconds(),
			})
		}
		list = append(list, u)
	}
	return list
}

func (o *operator) pools() []*upstream.Pool { return o.group.Policy().Routes.Pools() }

func (o *operator) drainMember(name string, m admin.MemberDrain) error {
	for _, p := range o.pools() {
		if p.Name() == name && p.Drain(m.Member, m.Drained) {
			return nil
		}
	}
	return admin.NotFound("there is no such upstream, or no such member of it")
}

func (o *operator) cachedNames(name string) []admin.CachedName {
	list := []admin.CachedName{}
	for _, c := range o.resolver.Cached(normal(name)) {
		n := admin.CachedName{Name: text(c.Name), Type: c.Type, Error: text(c.Error), From: c.From, Expires: c.Expires, Stale: c.Stale}
		for _, a := range c.Addresses {
			n.Addresses = append(n.Addresses, a.String())
		}
		list = append(list, n)
	}
	return list
}
