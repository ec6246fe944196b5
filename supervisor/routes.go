package supervisor

import (
	"cleversocks/conn/dial"
	"cleversocks/resolver"
	"cleversocks/supervisor/config"
)

// resolverOptions is the [resolver] section as the resolver takes it.
func (d *daemon) resolverOptions(cfg *config.Config) resolver.Options {
	r := cfg.Resolver
	servers := make([]string, len(r.Servers))
	for i, s := range r.Servers {
		servers[i] = string(s)
	}
	return resolver.Options{
		Servers: servers,
		Timeout: r.Timeout.D(),
		Cache: resolver.CacheOptions{
			Size:        r.Cache.Size,
			MinTTL:      r.Cache.MinTTL.D(),
			MaxTTL:      r.Cache.MaxTTL.D(),
			NegativeTTL: r.Cache.NegativeTTL.D(),
			ServeStale:  r.Cache.ServeStale.D(),
			Prefetch:    r.Cache.Prefetch,
		},
		Logger:  d.log,
		Metrics: d.metrics.DNS,
	}
}

// dialFamily is resolver.family as the dialer takes it.
func dialFamily(setting string) dial.Family {
	switch setting {
	case "ipv4":
		return dial.FamilyIPv4
	case "ipv6":
		return dial.FamilyIPv6
	}
	return dial.FamilyAuto
}
