package supervisor

import (
	"context"
	"log/slog"
	"net/netip"

	"cleversocks/aclsvc"
	"cleversocks/aclsvc/ratelimit"
	"cleversocks/authsvc"
	"cleversocks/conn"
	"cleversocks/supervisor/config"
)

// newGuards makes what counts and remembers clients over connections and
// reloads, with the state that was saved. Trouble with that is logged, and
// keeps nothing from starting.
func (d *daemon) newGuards(ctx context.Context, cfg *config.Config) conn.Guards {
	state := authsvc.StateOptions{
		Directory: cfg.State.Directory, Metrics: &d.metrics.Auth,
		OnError: func(err error) {
			d.log.LogAttrs(ctx, slog.LevelError, "state", slog.Any("err", err))
		},
	}
	d.once = authsvc.NewOnce(onceOptions(cfg), state)
	return conn.Guards{
		Gate:     ratelimit.NewGate(),
		Throttle: authsvc.NewThrottle(throttleOptions(cfg), state),
		Users:    ratelimit.NewUsers(),
		Quotas:   authsvc.NewQuotas(state),
	}
}

// setGuards gives new settings to the guards: the last step of a start or a
// reload, when everything else has been verified.
func (d *daemon) setGuards(cfg *config.Config, users *authsvc.Users) {
	limits := cfg.Limits
	burst := limits.ConnectionRate.Burst
	if burst == 0 {
		burst = limits.ConnectionRate.PerSecond
	}
	d.guards.Gate.Set(ratelimit.GateOptions{
		PerSecond: float64(limits.ConnectionRate.PerSecond), Burst: burst,
		PerSource: limits.MaxConnectionsPerIP, Exempt: config.Prefixes(limits.Exempt),
	})
	d.guards.Throttle.Set(throttleOptions(cfg))
	d.once.Set(onceOptions(cfg))
	d.guards.Users.Set(users)
	d.guards.Quotas.Set(users)
}

func throttleOptions(cfg *config.Config) authsvc.ThrottleOptions {
	failures := cfg.Limits.AuthFailures
	return authsvc.ThrottleOptions{
		Max: failures.Max, Window: failures.Window.D(), Ban: failures.Ban.D(), BanMax: failures.BanMax.D(),
		Exempt: config.Prefixes(cfg.Limits.Exempt),
	}
}

func onceOptions(cfg *config.Config) authsvc.OnceOptions {
	return authsvc.OnceOptions{TTL: cfg.Auth.Once.TTL.D(), Max: cfg.Auth.Once.Max}
}

// auth says who may come in. The users are compiled even where there are
// none, for the guards; nobody logs in as one of them then.
func (b *builder) auth(cfg *config.Config) (*authsvc.Admission, *authsvc.Users, error) {
	o := cfg.UserOptions(b.queue, &b.d.metrics.Auth)
	o.Banned = b.d.guards.Throttle.Banned
	users, err := authsvc.NewUsers(o)
	if err != nil {
		return nil, nil, err
	}
	admission := authsvc.AdmissionOptions{
		Required:       cfg.Auth.Required,
		Whitelist:      authsvc.NewWhitelist(config.Prefixes(cfg.Auth.NoPasswordFrom)),
		Authenticators: authenticators(cfg, users),
		Accounts:       users.Account,
		Throttle:       b.d.guards.Throttle,
		Log:            b.d.log,
		Outcomes:       b.d.metrics.Conn.Auth,
	}
	if cfg.Auth.Once.Enabled {
		admission.Once = b.d.once
	}
	return authsvc.NewAdmission(admission), users, nil
}

// authenticators are the ways to log in that are configured, in the order in
// which they are asked. A new one is a line here.
func authenticators(cfg *config.Config, users *authsvc.Users) []authsvc.Authenticator {
	var list []authsvc.Authenticator
	if cfg.Auth.Credential != nil || cfg.Auth.UsersFile != "" || len(cfg.Users) > 0 {
		list = append(list, users)
		if cfg.Auth.SOCKS4Users {
			list = append(list, authsvc.NewUserIDs(users))
		}
	}
	return list
}

// acl compiles the rules, with the proxy's own listeners, which nobody
// reaches through it.
func (b *builder) acl(cfg *config.Config, listeners []netip.AddrPort) (*aclsvc.Policy, error) {
	return aclsvc.Compile(aclsvc.Options{
		Rules:        cfg.ACL.RuleOptions(),
		DefaultAllow: cfg.ACL.Default == "allow",
		BlockPrivate: cfg.ACL.BlocksPrivate(),
		ReportOnly:   cfg.ACL.ReportOnly,
		Listeners:    listeners,
		Locals:       b.d.locals,
		NAT64:        config.Prefixes(cfg.Resolver.NAT64),
		OnPanic:      b.decisionPanicked,
	})
}

// announceAccess says what is in force where a setting leaves it open. With
// neither users nor rules there is nothing to say that anyone has asked for.
func (d *daemon) announceAccess(ctx context.Context, cfg *config.Config, p *conn.Policy, users int) {
	level := slog.LevelInfo
	if !p.Auth.Required() && p.ACL.Rules() == 0 && !p.ACL.BlocksPrivate() {
		level = slog.LevelDebug
	}
	d.log.LogAttrs(ctx, level, "access",
		slog.Bool("auth_required", cfg.Auth.Required), slog.Int("users", users), slog.Int("acl_rules", p.ACL.Rules()),
		slog.String("acl_default", cfg.ACL.Default), slog.Bool("block_private", p.ACL.BlocksPrivate()),
		slog.Bool("report_only", cfg.ACL.ReportOnly))
	if cfg.ACL.ReportOnly {
		d.log.LogAttrs(ctx, slog.LevelWarn, "acl.report_only: the rules deny nothing, what they would deny is logged")
	}
	if cfg.Auth.Required && users == 0 && len(cfg.Auth.NoPasswordFrom) == 0 {
		d.log.LogAttrs(ctx, slog.LevelWarn, "nobody can log in: authentication is required, and there are no users")
	}
}
