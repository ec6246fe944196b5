package supervisor

import (
	"cmp"
	"slices"

	"cleversocks/aclsvc/ratelimit"
	"cleversocks/conn"
	"cleversocks/conn/http2front"
	"cleversocks/metrics"
	"cleversocks/metrics/admin"
	"cleversocks/resolver"
	"cleversocks/supervisor/config"
	"cleversocks/supervisor/shortage"
)

// bounds are the limits and queues that the log tells of when they are reached.
func (d *daemon) bounds(m *metrics.Registry, c *core) []shortage.Limit {
	setting := func(of func(*config.Config) int) func() int64 {
		return func() int64 { return int64(of(d.config.Load())) }
	}
	return slices.Concat(clientBounds(m, c, setting), datagramBounds(m, setting), sharedBounds(m, c, setting), operatorBounds(m))
}

// settingOf is the figure of a bound that is in the settings.
type settingOf = func(func(*config.Config) int) func() int64

// fixed is the figure of a bound that does not change.
func fixed(n int) func() int64 { return func() int64 { return int64(n) } }

// clientBounds are those of connections and log-ins.
func clientBounds(m *metrics.Registry, c *core, setting settingOf) []shortage.Limit {
	refused, requests := m.Listener.Refused, m.Conn.Refused
	return []shortage.Limit{
		{Name: "limits.max_connections", Effect: "connections are reset", Count: refused.Of(metrics.RefusedLimit).Get, Figure: func() int64 { return int64(c.group.Limit()) }},
		{
			Name: "limits.max_connections_per_ip", Effect: "connections are reset", Count: refused.Of(metrics.RefusedIPLimit).Get,
			Figure: setting(func(cfg *config.Config) int { return cfg.Limits.MaxConnectionsPerIP }),
		},
		{
			Name: "limits.connection_rate", Effect: "connections are reset", Count: refused.Of(metrics.RefusedRate).Get,
			Figure: setting(func(cfg *config.Config) int { return cfg.Limits.ConnectionRate.PerSecond }),
		},
		{Name: "sources whose connection rate is known", Effect: "the rate of some is forgotten", Count: m.Limits.Of(metrics.LimitSources).Get, Figure: fixed(ratelimit.MaxSources)},
		{Name: "descriptors", Effect: "connections are reset", Count: refused.Of(metrics.RefusedDescriptors).Get, Figure: fixed(int(descriptorBudget().descriptors))},
		{Name: "a user's max_connections", Effect: "requests are refused", Count: requests.Of(metrics.RefusedUserLimit).Get},
		{Name: "a user's max_addresses", Effect: "requests are refused", Count: requests.Of(metrics.RefusedAddresses).Get},
		{Name: "a user's quota", Effect: "requests are refused", Count: requests.Of(metrics.RefusedQuota).Get},
		{Name: "log-ins that wait for a hash", Effect: "log-ins are refused", Count: m.Auth.Busy.Get},
		{Name: "Kerberos messages of a while ago", Effect: "log-ins are refused", Count: m.Auth.Refused.Of("gssapi", "unavailable").Get},
		{Name: "sources whose failed log-ins are known", Effect: "the failures of some are forgotten", Count: m.Auth.ThrottleEvicted.Get},
		{
			Name: "auth.once.max", Effect: "the least recent addresses have to log in again", Count: m.Auth.WhitelistEvicted.Of(metrics.EvictedFull).Get,
			Figure: setting(func(cfg *config.Config) int { return cfg.Auth.Once.Max }),
		},
		{Name: "streams of one HTTP/2 connection", Effect: "streams are refused", Count: m.Limits.Of(metrics.LimitStreams).Get, Figure: fixed(http2front.MaxStreams)},
		{Name: "bytes of large HTTP heads", Effect: "requests are refused", Count: m.Limits.Of(metrics.LimitHTTPHeads).Get, Figure: fixed(conn.HeadBudget)},
	}
}

// datagramBounds are those of UDP ASSOCIATE and BIND.
func datagramBounds(m *metrics.Registry, setting settingOf) []shortage.Limit {
	refused := m.UDP.Refused
	datagrams := func(outcome string) func() uint64 {
		in, out := m.UDP.Datagrams.Of("in", outcome), m.UDP.Datagrams.Of("out", outcome)
		return func() uint64 { return in.Get() + out.Get() }
	}
	return []shortage.Limit{
		{
			Name: "udp.max_associations", Effect: "associations are refused", Count: refused.Of(metrics.UDPRefusedServerLimit).Get,
			Figure: setting(associationLimit),
		},
		{
			Name: "udp.max_associations_per_user", Effect: "associations are refused", Count: refused.Of(metrics.UDPRefusedUserLimit).Get,
			Figure: setting(associationShare),
		},
		{Name: "UDP ports or descriptors", Effect: "associations are refused", Count: refused.Of(metrics.UDPRefusedSocket).Get},
		{Name: "queues and tables of UDP associations", Effect: "datagrams are dropped", Count: datagrams(metrics.UDPOverload)},
		{Name: "a user's bandwidth", Effect: "datagrams are dropped", Count: datagrams(metrics.UDPLimited)},
		{Name: "memory for fragments of UDP", Effect: "datagrams are dropped", Count: m.Limits.Of(metrics.LimitFragments).Get},
		{
			Name: "bind.max_per_user", Effect: "requests are refused", Count: m.Limits.Of(metrics.LimitBinds).Get,
			Figure: setting(func(cfg *config.Config) int { return cfg.Bind.MaxPerUser }),
		},
		{Name: "BIND ports or descriptors", Effect: "requests are refused", Count: m.Limits.Of(metrics.LimitBindPorts).Get},
	}
}

// sharedBounds are those of what all connections use.
func sharedBounds(m *metrics.Registry, c *core, setting settingOf) []shortage.Limit {
	budget := descriptorBudget()
	return []shortage.Limit{
		{Name: "pipes of the relay", Effect: "tunnels copy, which costs more", Count: m.Limits.Of(metrics.LimitPipes).Get, Figure: fixed(budget.pipes)},
		{Name: "descriptors for dials that race", Effect: "addresses are tried one after the other", Count: m.Limits.Of(metrics.LimitRaces).Get, Figure: fixed(budget.races)},
		{Name: "sockets of DNS queries", Effect: "queries share them", Count: m.Limits.Of(metrics.LimitDNSSockets).Get, Figure: fixed(budget.dns)},
		{Name: "queries on one connection to a name server", Effect: "queries fail there", Count: m.Limits.Of(metrics.LimitDNSPipelined).Get, Figure: fixed(resolver.MaxPipelined)},
		{
			Name: "connections to a name server that closes each after an answer", Effect: "queries wait",
			Count: m.Limits.Of(metrics.LimitDNSSingle).Get, Figure: fixed(resolver.MaxSingle),
		},
		{Name: "names that wait to be asked again before their end", Effect: "they are asked when they are needed", Count: m.DNS.Cache.Of(metrics.CachePrefetchDropped).Get},
		{
			Name: "resolver.cache.size", Effect: "the least recent names are forgotten", Normal: true, Count: m.DNS.Cache.Of(metrics.CacheEvicted).Get,
			Figure: setting(func(cfg *config.Config) int { return cfg.Resolver.Cache.Size }),
		},
		{Name: "access records that wait for the log", Effect: "records are dropped", Count: m.Conn.RecordsDropped.Get, Figure: fixed(c.access.Room())},
	}
}

// operatorBounds are those of metrics and of the management endpoint.
func operatorBounds(m *metrics.Registry) []shortage.Limit {
	return []shortage.Limit{
		{Name: "connections to the admin endpoint", Effect: "the quietest are closed", Count: m.Limits.Of(metrics.LimitAdmin).Get, Figure: fixed(admin.MaxConnections)},
		{Name: "event streams of the admin endpoint", Effect: "streams are refused", Count: m.Limits.Of(metrics.LimitEventStreams).Get, Figure: fixed(admin.MaxStreams)},
		{Name: "events that wait for the reader of a stream", Effect: "events are dropped", Count: m.Limits.Of(metrics.LimitEventQueue).Get, Figure: fixed(admin.EventQueue)},
		{Name: "users with series of their own in the metrics", Effect: "others count as \"other\"", Normal: true, Count: m.Limits.Of(metrics.LimitUserSeries).Get, Figure: fixed(metrics.MaxUserSeries)},
		{Name: "rules with series of their own in the metrics", Effect: "others count as \"other\"", Normal: true, Count: m.Limits.Of(metrics.LimitRuleSeries).Get, Figure: fixed(metrics.MaxRuleSeries)},
	}
}

// associationLimit is udp.max_associations, or what the descriptor limit carries.
func associationLimit(cfg *config.Config) int {
	return cmp.Or(cfg.UDP.MaxAssociations, descriptorBudget().udp)
}

// associationShare is udp.max_associations_per_user, or a part of all.
func associationShare(cfg *config.Config) int {
	return cmp.Or(cfg.UDP.MaxPerUser, udpShare(associationLimit(cfg)))
}
