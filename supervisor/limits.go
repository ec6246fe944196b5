package supervisor

import (
	"cmp"

	"cleversocks/metrics"
	"cleversocks/supervisor/config"
	"cleversocks/supervisor/shortage"
)

// bounds are the limits and queues that the log tells of when they are reached.
func (d *daemon) bounds(m *metrics.Registry, c *core) []shortage.Limit {
	figure := func(of func(*config.Config) int) func() int64 {
		return func() int64 { return int64(of(d.config.Load())) }
	}
	budget := descriptorBudget()
	refused, requests, udp := m.Listener.Refused, m.Conn.Refused, m.UDP.Refused
	overload := func() uint64 {
		return m.UDP.Datagrams.Of("in", metrics.UDPOverload).Get() + m.UDP.Datagrams.Of("out", metrics.UDPOverload).Get()
	}
	return []shortage.Limit{
		{Name: "limits.max_connections", Effect: "connections are reset", Count: refused.Of(metrics.RefusedLimit).Get, Figure: func() int64 { return int64(c.group.Limit()) }},
		{
			Name: "limits.max_connections_per_ip", Effect: "connections are reset", Count: refused.Of(metrics.RefusedIPLimit).Get,
			Figure: figure(func(cfg *config.Config) int { return cfg.Limits.MaxConnectionsPerIP }),
		},
		{
			Name: "limits.connection_rate", Effect: "connections are reset", Count: refused.Of(metrics.RefusedRate).Get,
			Figure: figure(func(cfg *config.Config) int { return cfg.Limits.ConnectionRate.PerSecond }),
		},
		{Name: "descriptors", Effect: "connections are reset", Count: refused.Of(metrics.RefusedDescriptors).Get, Figure: func() int64 { return int64(budget.descriptors) }},
		{Name: "a user's max_connections", Effect: "requests are refused", Count: requests.Of(metrics.RefusedUserLimit).Get},
		{Name: "a user's quota", Effect: "requests are refused", Count: requests.Of(metrics.RefusedQuota).Get},
		{Name: "log-ins that wait for a hash", Effect: "log-ins are refused", Count: m.Auth.Busy.Get},
		{
			Name: "udp.max_associations", Effect: "associations are refused", Count: udp.Of(metrics.UDPRefusedServerLimit).Get,
			Figure: figure(func(cfg *config.Config) int { return cmp.Or(cfg.UDP.MaxAssociations, budget.udp) }),
		},
		{
			Name: "udp.max_associations_per_user", Effect: "associations are refused", Count: udp.Of(metrics.UDPRefusedUserLimit).Get,
			Figure: figure(func(cfg *config.Config) int {
				return cmp.Or(cfg.UDP.MaxPerUser, udpShare(cmp.Or(cfg.UDP.MaxAssociations, budget.udp)))
			}),
		},
		{Name: "UDP ports or descriptors", Effect: "associations are refused", Count: udp.Of(metrics.UDPRefusedSocket).Get},
		{Name: "queues and tables of UDP associations", Effect: "datagrams are dropped", Count: overload},
		{Name: "access records that wait for the log", Effect: "records are dropped", Count: m.Conn.RecordsDropped.Get, Figure: func() int64 { return int64(c.access.Room()) }},
		{Name: "names that wait to be asked again before their end", Effect: "they are asked when they are needed", Count: m.DNS.Cache.Of(metrics.CachePrefetchDropped).Get},
	}
}
