package config

import (
	"bytes"
	"cmp"
	"os"
	"strings"

	"cleversocks/conn/dial"
	"cleversocks/conn/upstream"
	"cleversocks/listener/proxyproto"
)

const upstreamDoc = "A way out through other proxies: a chain of them (via), or a pool of interchangeable ones (members). [[forward]] rules lead to it."

// Upstream is one [[upstream]].
type Upstream struct {
	Name     string
	Via      []ProxyURL // a chain, first hop first
	Members  []ProxyURL // a pool
	Resolve  string     // remote or local
	Pool     UpstreamPool
	Strategy string
	Health   UpstreamHealth
	// SendProxy is off, v1 or v2.
	SendProxy string
}

// UpstreamPool is how many connections are kept ready.
type UpstreamPool struct {
	Warm    int      // for each member
	MaxIdle Duration // the age at which one is replaced
}

// UpstreamHealth is how members are watched.
type UpstreamHealth struct {
	Interval Duration // between probes
	Timeout  Duration // of one probe
	Failures int      // in a row that take a member out
}

func (u *Upstream) keys() []Key {
	return []Key{
		{
			Name: "name", Value: &u.Name, Default: "",
			Doc: "What [[forward]] rules, logs and metrics call it.",
		},
		{
			Name: "via", Value: &u.Via, Default: "",
			Doc: "A chain of proxies, the first one first: `scheme://[user:password@]host[:port]` with socks5, socks4a, socks4 or http, each also over TLS as socks5+tls and so on, or https. `file:PATH` is a file with one a line, so that passwords stay out of the configuration.",
		},
		{
			Name: "members", Value: &u.Members, Default: "",
			Doc: "A pool of proxies, one of which is taken for each connection. `file:PATH` is a file with one a line or a JSON array of them, read again on SIGHUP.",
		},
		{
			Name: "resolve", Value: &u.Resolve, Default: "remote", Choices: []string{"remote", "local"},
			Doc: "Who resolves names: the last proxy (remote; then [acl] judges the name alone), or this daemon (local; then the addresses are judged, and sent).",
		},
		{
			Name: "send_proxy", Value: &u.SendProxy, Default: "off", Choices: []string{"off", "v1", "v2"},
			Doc: "Tells the first proxy who the client is and where it connected to, by a PROXY header of version 1 or 2 ahead of everything, TLS included. It must expect one: `accept-proxy` in haproxy. Connections are then not kept ready (pool.warm): each is one client's.",
		},
		{
			Name: "pool.warm", Value: &u.Pool.Warm, Default: "0", Min: "0", Max: "64",
			Doc: "How many connections to each proxy are kept ready, TLS and authentication done, so that a request pays one round trip.",
		},
		{
			Name: "pool.max_idle", Value: &u.Pool.MaxIdle, Default: "1m", Min: "100ms",
			Doc: "The age at which a ready connection is replaced. Set it below the proxy's own idle time-out.",
		},
		{
			Name: "strategy", Value: &u.Strategy, Default: "round_robin",
			Choices: []string{"round_robin", "random", "least_connections", "fastest"},
			Doc:     "How a member is chosen among those that work. `fastest` goes by the time of the handshakes.",
		},
		{
			Name: "health.interval", Value: &u.Health.Interval, Default: "30s", Min: "100ms",
			Doc: "Time between two probes of a proxy. A probe is a handshake without a request.",
		},
		{
			Name: "health.timeout", Value: &u.Health.Timeout, Default: "5s", Min: "100ms",
			Doc: "How long a probe may take.",
		},
		{
			Name: "health.failures", Value: &u.Health.Failures, Default: "3", Min: "1", Max: "100",
			Doc: "How many failures in a row take a proxy out, until a probe succeeds. When all are out, one is tried all the same.",
		},
	}
}

// options is the upstream as its package takes it.
func (u *Upstream) options() upstream.Upstream {
	return upstream.Upstream{
		Name: u.Name, Via: reveal(u.Via), Members: reveal(u.Members),
		ResolveLocally: u.Resolve == "local",
		Strategy:       upstream.Strategy(u.Strategy),
		Health:         upstream.Health{Interval: u.Health.Interval.D(), Timeout: u.Health.Timeout.D(), Failures: u.Health.Failures},
		Warm:           upstream.Warm{Size: u.Pool.Warm, MaxIdle: u.Pool.MaxIdle.D()},
		SendProxy:      proxyproto.Send(u.SendProxy),
	}
}

const forwardDoc = "A rule that says where matching connections go; the first that matches decides, and without one they go direct. Those of -f come before the file's."

// Forward is one [[forward]].
type Forward struct {
	To        []string
	Ports     []PortRange
	Users     []string
	Groups    []string
	From      []Prefix
	Listeners []string
	Upstream  string // a name, "direct" or "reject"
	Rewrite   string // host:port
	SendProxy string // off, v1 or v2, of a rule that leads direct
	Egress    Egress // likewise
}

func (w *Forward) keys() []Key {
	return append([]Key{
		{
			Name: "to", Value: &w.To, Default: "",
			Doc: "Targets: names (`example.org`), all names below one (`*.example.org`), addresses, CIDRs, or `*`. A target given by name matches names only: it is not resolved to find out. Empty: any.",
		},
		{Name: "ports", Value: &w.Ports, Default: "", Doc: "Ports and ranges of ports of the target: `443`, `\"8000-8999\"`. Empty: any."},
		{Name: "users", Value: &w.Users, Default: "", Doc: "The users that the rule is for. With `groups`, one of either is enough. Empty: everybody."},
		{Name: "groups", Value: &w.Groups, Default: "", Doc: "The groups of users that the rule is for."},
		{Name: "from", Value: &w.From, Default: "", Doc: "The addresses of clients that the rule is for. Empty: any."},
		{Name: "listeners", Value: &w.Listeners, Default: "", Doc: "The names of the listeners that clients came to, or the addresses of those without a name. Empty: any."},
		{
			Name: "upstream", Value: &w.Upstream, Default: "",
			Doc: "Where to: the name of an [[upstream]], `direct`, or `reject`.",
		},
		{
			Name: "rewrite", Value: &w.Rewrite, Default: "",
			Doc: "The `host:port` that is asked for instead. An empty host or `*` keeps the host, port 0 keeps the port. [acl] judges both the old and the new target.",
		},
		{
			Name: "send_proxy", Value: &w.SendProxy, Default: "off", Choices: []string{"off", "v1", "v2"},
			Doc: "Tells the target itself who the client is, by a PROXY header of version 1 or 2 ahead of the client's bytes, for upstream = \"direct\". Targets that expect none take it for garbage. UDP and BIND have none.",
		},
	}, w.Egress.exceptions("How connections of this rule leave, for upstream = \"direct\".")...)
}

// options is the rule as its package takes it.
func (w *Forward) options() upstream.Rule {
	return upstream.Rule{
		To: w.To, Ports: portRanges(w.Ports), Users: w.Users, Groups: w.Groups, From: Prefixes(w.From), Listeners: w.Listeners, Upstream: w.Upstream, Rewrite: w.Rewrite, Egress: w.Egress.Options(),
		SendProxy: proxyproto.Send(w.SendProxy),
	}
}

// Options is the egress as the dialer takes it.
func (e Egress) Options() dial.Egress {
	return dial.Egress{Addresses: Prefixes(e.Address), Interface: e.Interface, Mark: uint32(e.Mark)}
}

// Routes are the upstreams and rules as their package takes them.
func (c *Config) Routes() ([]upstream.Upstream, []upstream.Rule) {
	upstreams := make([]upstream.Upstream, len(c.Upstreams))
	for i := range c.Upstreams {
		upstreams[i] = c.Upstreams[i].options()
	}
	var rules []upstream.Rule
	for i := range c.Listeners {
		if l := &c.Listeners[i]; l.Upstream != "" {
			rules = append(rules, upstream.Rule{Label: element("listener", i), Listeners: []string{l.Called()}, Upstream: l.Upstream})
		}
	}
	for i := range c.Forwards {
		rule := c.Forwards[i].options()
		rule.Label = element("forward", i)
		rules = append(rules, rule)
	}
	return upstreams, rules
}

func (c *Config) finishRoutes(f *finisher) {
	c.addForwardFlags(f)
	for _, problem := range upstream.Check(c.Routes()) {
		if el, _, _ := strings.Cut(problem.Path, "."); f.within(el) {
			continue // what is left of it is not what was meant
		}
		f.add(c.originOf(problem.Path), problem.Path, "%v", problem.Err)
	}
	for i, u := range c.Upstreams {
		f.checkProxyFiles(element("upstream", i)+".via", u.Via)
		f.checkProxyFiles(element("upstream", i)+".members", u.Members)
	}
	for i := range c.Forwards {
		f.checkEgress(element("forward", i)+".egress", &c.Forwards[i].Egress)
	}
	used := make(map[string]bool)
	for _, w := range c.Forwards {
		used[w.Upstream] = true
	}
	for i := range c.Listeners {
		used[c.Listeners[i].Upstream] = true
	}
	for i, u := range c.Upstreams {
		if !used[u.Name] {
			f.warn("no [[forward]] rule leads to the upstream %q (%s)", clip(u.Name), cmp.Or(c.originOf(element("upstream", i)).where, "flag -f"))
		}
	}
}

// checkProxyFiles refuses files with passwords that every user may read.
// Whatever else is wrong with them, their package has said.
func (f *finisher) checkProxyFiles(key string, list []ProxyURL) {
	for _, p := range list {
		path, isFile := strings.CutPrefix(p.secret.Reveal(), "file:")
		if !isFile {
			continue
		}
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
			continue
		}
		text, _, err := readBounded(path, maxFile)
		if err != nil || !bytes.ContainsRune(text, '@') {
			continue
		}
		if err := checkSecretPath(path, f.cfg.Secrets.AllowWorldReadable); err != nil {
			f.add(f.cfg.originOf(key), key, "%q holds a password: %v", clip(path), err)
		}
	}
}

// ProxyURL is a proxy's URL, or "file:PATH". It prints without its password.
type ProxyURL struct{ secret Secret }

// UnmarshalText reads a URL that upstream.ParseHop accepts. Its errors repeat
// nothing of the text.
func (p *ProxyURL) UnmarshalText(text []byte) error {
	if !strings.HasPrefix(string(text), "file:") {
		if _, err := upstream.ParseHop(string(text)); err != nil {
			return err
		}
	}
	p.secret = NewSecret(string(text))
	return nil
}

// String is the URL with a mask in the place of its password.
func (p ProxyURL) String() string { return maskURL(p.secret.Reveal()) }

// GoString is String.
func (p ProxyURL) GoString() string { return `config.ProxyURL("` + p.String() + `")` }

// MarshalText is String.
func (p ProxyURL) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

func (ProxyURL) accepts() string {
	return `a proxy's URL such as "socks5://user:password@10.0.0.1:1080" or "https://10.0.0.2", or "file:PATH"`
}

func (ProxyURL) sensitive() {}

func (p ProxyURL) reveal() string { return p.secret.Reveal() }

// maskURL replaces what stands between the first colon and the last @ of the
// user part.
func maskURL(url string) string {
	scheme, rest, ok := strings.Cut(url, "://")
	at := strings.LastIndexByte(rest, '@')
	if !ok || at < 0 {
		return url
	}
	user, _, _ := strings.Cut(rest[:at], ":")
	return scheme + "://" + user + ":" + masked + rest[at:]
}

func reveal(list []ProxyURL) []string {
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = p.secret.Reveal()
	}
	return out
}
