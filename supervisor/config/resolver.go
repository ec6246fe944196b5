package config

import (
	"net/netip"

	"cleversocks/resolver"
)

const resolverDoc = "How names become addresses. SIGHUP applies a change at once; the cache stays unless the servers or its size changed."

// Resolver is the [resolver] section.
type Resolver struct {
	Servers []NameServer
	Timeout Duration // of one question, over all servers and retries
	Cache   ResolverCache
	Family  string   // auto, ipv4 or ipv6
	NAT64   []Prefix // IPv6 prefixes that carry IPv4 addresses
}

// ResolverCache bounds what is remembered of answers.
type ResolverCache struct {
	Size        int // answers
	MinTTL      Duration
	MaxTTL      Duration // 0: no bound
	NegativeTTL Duration // the most for a name that does not exist
	ServeStale  Duration // past an answer's end, while no server answers; 0: never
	Prefetch    bool
}

func (r *Resolver) keys() []Key {
	return []Key{
		{
			Name: "servers", Value: &r.Servers, Default: "system",
			Doc: "The name servers, in the order in which they are asked; the next one is when one fails or is slow. `system` is resolv.conf's, with its search rules, read again when the file changes. `udp://1.1.1.1`, `tcp://1.1.1.1`, `tls://1.1.1.1#cloudflare-dns.com` (the name in the certificate), `tls://dns.example#192.0.2.1` and `https://dns.example/dns-query#192.0.2.1` (the server's own address; without it resolv.conf's servers are asked for it). The hosts file comes first with all of them.",
		},
		{
			Name: "timeout", Value: &r.Timeout, Default: "5s", Min: "100ms", Max: "1m",
			Doc: "For one look-up, all servers and retries together.",
		},
		{
			Name: "cache.size", Value: &r.Cache.Size, Default: "10000", Min: "16", Max: "10000000",
			Doc: "How many answers are kept; a name with IPv4 and IPv6 addresses has two.",
		},
		{
			Name: "cache.min_ttl", Value: &r.Cache.MinTTL, Default: "0s",
			Doc: "How long an answer is kept at least, whatever its own time says.",
		},
		{
			Name: "cache.max_ttl", Value: &r.Cache.MaxTTL, Default: "1h",
			Doc: "How long an answer is kept at most. 0s: as long as it says.",
		},
		{
			Name: "cache.negative_ttl", Value: &r.Cache.NegativeTTL, Default: "30s",
			Doc: "How long at most it is remembered that a name does not exist (RFC 2308).",
		},
		{
			Name: "cache.serve_stale", Value: &r.Cache.ServeStale, Default: "1h",
			Doc: "For how long after its end an answer still serves while no server answers (RFC 8767). 0s: never.",
		},
		{
			Name: "cache.prefetch", Value: &r.Cache.Prefetch, Default: "true",
			Doc: "Asks again for names in frequent use shortly before their answer ends.",
		},
		{
			Name: "family", Value: &r.Family, Default: "auto", Choices: []string{"auto", "ipv4", "ipv6"},
			Doc: "Which addresses are used. `auto` is both, raced as RFC 8305 says.",
		},
		{
			Name: "nat64", Value: &r.NAT64, Default: "64:ff9b::/96",
			Doc: "IPv6 prefixes of translators to IPv4 in this network: rules judge the IPv4 address inside. `64:ff9b::/96` always is one.",
		},
	}
}

func (c *Config) finishResolver(f *finisher) {
	if f.within("resolver") {
		return
	}
	r := &c.Resolver
	if len(r.Servers) == 0 {
		f.add(c.origins["resolver.servers"], "resolver.servers", `must have at least one element, or be left out for "system"`)
	}
	if r.Cache.MaxTTL > 0 && r.Cache.MinTTL > r.Cache.MaxTTL {
		const key = "resolver.cache.min_ttl"
		f.add(c.originOf(key), key, "%s is more than resolver.cache.max_ttl, %s", r.Cache.MinTTL, r.Cache.MaxTTL)
	}
	for _, p := range r.NAT64 {
		if !isNAT64(p.Prefix) {
			const key = "resolver.nat64"
			f.add(c.originOf(key), key, "%s: must be IPv6 with a length of 32, 40, 48, 56, 64 or 96 (RFC 6052)", p)
		}
	}
}

// isNAT64 knows the lengths of RFC 6052 §2.2.
func isNAT64(p netip.Prefix) bool {
	switch p.Bits() {
	case 32, 40, 48, 56, 64, 96:
		return p.Addr().Is6()
	}
	return false
}

// NameServer is one entry of resolver.servers.
type NameServer string

// UnmarshalText reads "system" or a URL that the resolver accepts.
func (s *NameServer) UnmarshalText(text []byte) error {
	if err := resolver.CheckServer(string(text)); err != nil {
		return err
	}
	*s = NameServer(text)
	return nil
}

// MarshalText is the entry as it was written.
func (s NameServer) MarshalText() ([]byte, error) { return []byte(s), nil }

func (NameServer) accepts() string {
	return `"system" or a URL such as "udp://1.1.1.1", "tls://1.1.1.1#cloudflare-dns.com" or "https://dns.example/dns-query#192.0.2.1"`
}
