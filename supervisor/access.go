package supervisor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"

	"cleversocks/aclsvc"
	"cleversocks/aclsvc/ratelimit"
	"cleversocks/authsvc"
	"cleversocks/authsvc/gssapi"
	"cleversocks/authsvc/shared"
	"cleversocks/conn"
	"cleversocks/conn/textfile"
	"cleversocks/metrics"
	"cleversocks/supervisor/config"
)

// guards count and remember clients over connections and reloads.
type guards struct {
	conn.Guards
	once    *authsvc.Once
	replays *gssapi.ReplayCache
	forgot  func()                      // counts sources of the gate
	seats   map[string]*ratelimit.Seats // by ratelimit.Holding.Of
	tables  []authsvc.Table             // what passes to a successor; a new one is a line in newGuards
	fleet   *shared.Store               // nil: this daemon is alone
}

// newGuards makes them with the state that was saved, or, inherited, for what a
// predecessor is going to tell. Trouble with that is
// logged, and keeps nothing from starting.
func newGuards(ctx context.Context, cfg *config.Config, log *slog.Logger, m *metrics.Registry, inherited bool) *guards {
	state := authsvc.StateOptions{
		Directory: cfg.State.Directory, Metrics: &m.Auth, Inherited: inherited,
		OnError: func(err error) { log.LogAttrs(ctx, slog.LevelError, "state", slog.Any("err", err)) },
	}
	g := &guards{
		once:    authsvc.NewOnce(onceOptions(cfg), state),
		replays: gssapi.KeepReplays(state),
		seats:   map[string]*ratelimit.Seats{ofAssociations: {}, ofBinds: {}},
		forgot:  m.Limits.Of(metrics.LimitSources).Inc,
		Guards: conn.Guards{
			Gate:     ratelimit.NewGate(),
			Throttle: authsvc.NewThrottle(throttleOptions(cfg), state),
			Users:    ratelimit.NewUsers(),
			Quotas:   authsvc.NewQuotas(state),
		},
	}
	g.tables = []authsvc.Table{g.once.Table(), g.Throttle.Table(), g.Quotas.Table(), g.replays.Table(), connectionRates(g.Gate)}
	g.join(cfg, log, m)
	return g
}

// Prepare has nothing to verify: the users are compiled already.
func (g *guards) Prepare(_ context.Context, d *draft) (change, error) {
	return effect(func(context.Context) {
		g.set(d.cfg, d.users)
		if g.fleet != nil {
			g.fleet.Retarget(d.cfg.SharedState.Target)
		}
	}), nil
}

// set gives the guards new settings.
func (g *guards) set(cfg *config.Config, users *authsvc.Users) {
	limits := cfg.Limits
	burst := limits.ConnectionRate.Burst
	if burst == 0 {
		burst = limits.ConnectionRate.PerSecond
	}
	g.Gate.Set(ratelimit.GateOptions{
		PerSecond: float64(limits.ConnectionRate.PerSecond), Burst: burst,
		PerSource: limits.MaxConnectionsPerIP, Exempt: config.Exemptions(limits.Exempt),
		Forgot: g.forgot,
	})
	g.Throttle.Set(throttleOptions(cfg))
	g.once.Set(onceOptions(cfg))
	g.Users.SetBurst(limits.BandwidthBurst.D())
	g.setUsers(users)
}

// setUsers gives the guards other accounts.
func (g *guards) setUsers(users *authsvc.Users) {
	g.Users.Set(users)
	g.Quotas.Set(users)
}

func throttleOptions(cfg *config.Config) authsvc.ThrottleOptions {
	failures := cfg.Limits.AuthFailures
	return authsvc.ThrottleOptions{
		Max: failures.Max, Window: failures.Window.D(), Ban: failures.Ban.D(), BanMax: failures.BanMax.D(),
		Exempt: config.Exemptions(cfg.Limits.Exempt),
	}
}

func onceOptions(cfg *config.Config) authsvc.OnceOptions {
	return authsvc.OnceOptions{TTL: cfg.Auth.Once.TTL.D(), Max: cfg.Auth.Once.Max}
}

// accounts is who may come in.
type accounts struct {
	log     *slog.Logger
	metrics *metrics.Registry
	guards  *guards
	queue   *authsvc.Queue // of passwords that are being checked, of all policies
	inFile  int            // users that the users file had at the last change

	users     *authsvc.Users // in force; nil: none are yet
	admission *authsvc.Admission
}

// errEmptied refuses a users file that was cut short while it was written, or
// deleted and made anew: it would lock everybody out.
var errEmptied = errors.New("auth.users_file: it had users and has none now, which would lock all of them out: take the setting away if that is meant")

// Prepare compiles the users, even where there are none, for the guards;
// nobody logs in as one of them then.
func (a *accounts) Prepare(_ context.Context, d *draft) (change, error) {
	cfg := d.cfg
	o := cfg.UsersOptions(a.queue, &a.metrics.Auth)
	o.Before = a.users
	if d.edited != nil {
		o.Edited, o.Removes = true, d.removes
		o.Open = func(string) (io.ReadCloser, error) {
			return textfile.Wrap(io.NopCloser(bytes.NewReader(d.edited))), nil
		}
	}
	users, err := authsvc.NewUsers(o)
	if err != nil {
		return nil, err
	}
	if cfg.Auth.UsersFile != "" && users.InFile() == 0 && a.inFile > 0 && d.edited == nil {
		return nil, errEmptied
	}
	admission := authsvc.AdmissionOptions{
		Required:       cfg.Auth.Required,
		Whitelist:      authsvc.NewWhitelist(config.Prefixes(cfg.Auth.NoPasswordFrom)),
		Authenticators: authenticators(cfg, users, a.guards.replays),
		Accounts:       users.Account,
		Out:            a.guards.out(),
		Parameters:     cfg.Auth.UserParameters,
		Throttle:       a.guards.Throttle,
		Log:            a.log,
		Outcomes:       a.metrics.Conn.Auth,
		Refused:        a.metrics.Auth.Refused,
	}
	if cfg.Auth.Once.Enabled {
		admission.Once = a.guards.once
	}
	if d.edited != nil {
		admission.Before = a.admission
	}
	made := authsvc.NewAdmission(admission)
	d.users, d.policy.Auth = users, made
	return effect(func(context.Context) { a.inFile, a.users, a.admission = users.InFile(), users, made }), nil
}

// authenticators are the ways to log in that are configured, in the order in
// which they are asked. A new one is a line here.
func authenticators(cfg *config.Config, users *authsvc.Users, replays *gssapi.ReplayCache) []authsvc.Authenticator {
	var list []authsvc.Authenticator
	if names := cfg.PeerUsers(); len(names) > 0 {
		list = append(list, authsvc.NewPeers(users, names))
	}
	if cfg.HasClientCA() {
		list = append(list, authsvc.NewCertificates(users))
	}
	if cfg.Auth.Credential != nil || cfg.Auth.UsersFile != "" || len(cfg.Users) > 0 {
		list = append(list, users)
		if cfg.Auth.SOCKS4Users {
			list = append(list, authsvc.NewUserIDs(users))
		}
	}
	if g := cfg.Auth.GSSAPI; g.Keytab != nil {
		list = append(list, gssapi.NewAcceptor(gssapi.Options{Keytab: g.Keytab, Service: g.Service, Skew: g.ClockSkew.D(), Mapping: g.Mapping, Replays: replays}))
	}
	return list
}

// rules compiles the ACL, with the proxy's own listeners, which nobody reaches
// through it.
type rules struct {
	log     *slog.Logger
	metrics *metrics.Registry
	locals  *aclsvc.Locals
}

// Prepare compiles the rules, once all that listens is bound.
func (r *rules) Prepare(_ context.Context, d *draft) (change, error) {
	o := ruleOptions(d.cfg, d.own, r.locals)
	o.OnPanic = func(p any, q aclsvc.Query) {
		r.metrics.Conn.Panics.Of("decision").Inc()
		r.log.Error("panic in a decision: denied", "panic", p, "client", q.Source, "target", q.Name)
	}
	acl, err := aclsvc.Compile(o)
	if err != nil {
		return nil, err
	}
	d.policy.ACL = acl
	d.policy.Decisions = r.metrics.ACL.Decisions(acl.Deciders())
	return nil, nil //nolint:nilnil // nothing to commit
}

// ruleOptions is what the settings say about destinations.
func ruleOptions(cfg *config.Config, own []netip.AddrPort, locals *aclsvc.Locals) aclsvc.Options {
	return aclsvc.Options{
		Rules:        cfg.ACL.RuleOptions(),
		DefaultAllow: cfg.ACL.Default == "allow",
		BlockPrivate: cfg.ACL.BlocksPrivate(), BlockPrivateAt: cfg.BlocksPrivateAt(),
		ReportOnly: cfg.ACL.ReportOnly,
		Listeners:  own,
		Hosts:      cfg.EgressRanges(),
		Advertised: cfg.Advertised(),
		Locals:     locals,
		NAT64:      config.Prefixes(cfg.Resolver.NAT64),
	}
}

// announceAccess says what is in force where a setting leaves it open. With
// neither users nor rules there is nothing to say that anyone has asked for.
func announceAccess(ctx context.Context, cfg *config.Config, p *conn.Policy, users int, log *slog.Logger) {
	level := slog.LevelInfo
	if !p.Auth.Required() && p.ACL.Rules() == 0 && !p.ACL.BlocksPrivate() {
		level = slog.LevelDebug
	}
	log.LogAttrs(ctx, level, "access",
		slog.Bool("auth_required", cfg.Auth.Required), slog.Int("users", users), slog.Int("acl_rules", p.ACL.Rules()),
		slog.String("acl_default", cfg.ACL.Default), slog.Bool("block_private", p.ACL.BlocksPrivate()),
		slog.Bool("report_only", cfg.ACL.ReportOnly))
	if cfg.ACL.ReportOnly {
		log.LogAttrs(ctx, slog.LevelWarn, "acl.report_only: the rules deny nothing, what they would deny is logged")
	}
	if cfg.Auth.Required && users == 0 && len(cfg.Auth.NoPasswordFrom) == 0 && !cfg.HasForeignUsers() {
		log.LogAttrs(ctx, slog.LevelWarn, "nobody can log in: authentication is required, and there are no users")
	}
}
