package resolver

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"cleversocks/conn/task"
	"cleversocks/metrics"
)

// state is one configuration, complete and unchanging but for the cache and
// the servers' health. A look-up loads it once.
type state struct {
	generation uint64 // grows when the servers change
	opts       Options
	conf       resolvConf
	hosts      hosts
	search     bool // resolv.conf's search rules apply
	servers    []*server
	group      *group
	bootstrap  *group // resolv.conf's servers, for the names of servers
	cache      *cache
	stamps     [2]stamp // of resolv.conf and the hosts file, as read
}

const (
	defaultRounds  = 2
	minStagger     = 250 * time.Millisecond
	maxStagger     = 1500 * time.Millisecond
	resolvConfPath = "/etc/resolv.conf"
	hostsPath      = "/etc/hosts"
)

// rebuild makes the state for options and the files as they are now, and puts
// it in force. r.config is held.
func (r *Resolver) rebuild(opts Options) error {
	st, err := r.build(opts)
	if err != nil {
		return err
	}
	r.install(st)
	return nil
}

// build makes a state, which opens nothing. Servers that stay keep their
// connections and health. r.config is held until the state is installed.
func (r *Resolver) build(opts Options) (*state, error) {
	opts = withDefaults(opts)
	old := r.state.Load()
	st := &state{opts: opts, stamps: [2]stamp{stampOf(opts.ResolvConf), stampOf(opts.Hosts)}}
	var err error
	if st.hosts, err = readHosts(opts.Hosts); err != nil {
		return nil, err
	}
	if st.conf, err = readResolvConf(opts.ResolvConf); err != nil {
		return nil, err
	}
	specs, err := parseServers(opts.Servers)
	if err != nil {
		return nil, err
	}
	kept := make(map[string]*server)
	if old != nil && old.opts.RootCAs == opts.RootCAs {
		for _, s := range old.servers {
			kept[s.id] = s
		}
	}
	system := r.systemServers(st, kept)
	for _, sp := range specs {
		if sp.transport == System {
			st.search = true
			st.servers = append(st.servers, system...)
			continue
		}
		s := kept[sp.text]
		if s == nil {
			s = r.newServer(sp, opts)
		}
		st.servers = append(st.servers, s)
	}
	st.group = st.groupOf(st.servers, st.search, r.panics)
	st.bootstrap = st.groupOf(system, true, r.panics)
	st.inherit(old)
	return st, nil
}

// install puts a state in force and lets the servers go that it has no more.
func (r *Resolver) install(st *state) {
	old := r.state.Load()
	r.state.Store(st)
	if old == nil {
		return
	}
	for _, s := range old.servers {
		if !slices.Contains(st.servers, s) {
			r.retire(s)
		}
	}
}

func withDefaults(opts Options) Options {
	if len(opts.Servers) == 0 {
		opts.Servers = []string{System}
	}
	if opts.Timeout <= 0 {
		opts.Timeout = defaultTimeout
	}
	if opts.Sockets < 1 {
		opts.Sockets = defaultSockets
	}
	if opts.Metrics.Duration == nil {
		opts.Metrics = metrics.New().DNS // that nobody reads
	}
	if opts.ResolvConf == "" {
		opts.ResolvConf = resolvConfPath
	}
	if opts.Hosts == "" {
		opts.Hosts = hostsPath
	}
	return opts
}

// inherit takes over the cache, unless it would answer for other servers.
func (st *state) inherit(old *state) {
	if old != nil && slices.Equal(old.servers, st.servers) && old.opts.Cache.Size == st.opts.Cache.Size {
		st.cache, st.generation = old.cache, old.generation
		return
	}
	st.cache = newCache(st.opts.Cache.Size)
	if old != nil {
		st.generation = old.generation + 1
	}
}

// groupOf makes a group of servers, with resolv.conf's manners where they are
// its servers.
func (st *state) groupOf(servers []*server, system bool, panics *task.Reporter) *group {
	g := &group{servers: servers, rounds: defaultRounds, lookups: st.opts.Metrics.Lookups, panics: panics}
	if system {
		g.rounds, g.rotate, g.stagger = st.conf.attempts, st.conf.rotate, st.conf.timeout
	}
	if g.stagger == 0 {
		queries := time.Duration(max(len(servers)*g.rounds, 1))
		g.stagger = min(max(st.opts.Timeout/queries, minStagger), maxStagger)
	}
	// Even a single late query must leave time for its answer.
	g.stagger = min(g.stagger, st.opts.Timeout/2)
	return g
}

// systemServers are resolv.conf's.
func (r *Resolver) systemServers(st *state, kept map[string]*server) []*server {
	var out []*server
	for _, addr := range st.conf.nameservers {
		transport := transportUDP
		if st.conf.useTCP {
			transport = transportTCP
		}
		id := transport + "://" + addr.String()
		s := kept[id]
		if s == nil {
			s = r.newServer(spec{
				text: id, transport: transport, addrs: []netip.Addr{addr.Addr()}, port: addr.Port(),
			}, st.opts)
		}
		out = append(out, s)
	}
	return out
}

// newServer makes a server with its transport. Nothing is sent yet.
func (r *Resolver) newServer(sp spec, opts Options) *server {
	s := &server{id: sp.text, label: sp.transport}
	conf := &tls.Config{
		ServerName: sp.verify, RootCAs: opts.RootCAs, MinVersion: tls.VersionTLS12,
		ClientSessionCache: tls.NewLRUClientSessionCache(4),
	}
	plain := func(ctx context.Context) (net.Conn, error) { return r.connect(ctx, sp) }
	switch sp.transport {
	case transportUDP:
		s.transport = newUDP(netip.AddrPortFrom(sp.addrs[0], sp.port), newStream(plain, opts.Metrics, r.scope), r.sockets)
	case transportTCP:
		s.transport = newStream(plain, opts.Metrics, r.scope)
	case transportTLS:
		s.transport = newStream(func(ctx context.Context) (net.Conn, error) {
			c, err := plain(ctx)
			if err != nil {
				return nil, err
			}
			secured := tls.Client(c, conf)
			if err := secured.HandshakeContext(ctx); err != nil {
				_ = c.Close()
				return nil, err
			}
			return secured, nil
		}, opts.Metrics, r.scope)
	default:
		s.transport = newHTTPS(sp.url, plain, conf, opts.Metrics.Dropped)
	}
	return s
}

// connect opens a TCP connection to a server, at the first of its addresses
// that answers. Each gets its share of the time that is left.
func (r *Resolver) connect(ctx context.Context, sp spec) (net.Conn, error) {
	addrs := sp.addrs
	if len(addrs) == 0 {
		var err error
		if addrs, err = r.serverAddrs(ctx, sp.host); err != nil {
			return nil, err
		}
	}
	var d net.Dialer
	d.SetMultipathTCP(false)
	var failure error
	for i, addr := range addrs {
		d.Timeout = 0
		if deadline, ok := ctx.Deadline(); ok {
			d.Timeout = time.Until(deadline) / time.Duration(len(addrs)-i)
		}
		c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(addr.String(), strconv.Itoa(int(sp.port))))
		if err == nil {
			return c, nil
		}
		failure = err
	}
	return nil, failure
}

// serverAddrs finds the addresses of a server that is given by name, in the
// hosts file and at resolv.conf's servers.
func (r *Resolver) serverAddrs(ctx context.Context, host string) ([]netip.Addr, error) {
	st := r.state.Load()
	if addrs, known := st.local(host); known {
		return addrs, nil
	}
	var addrs []netip.Addr
	var failure error
	for _, family := range []Family{IPv4, IPv6} {
		a, err := st.bootstrap.ask(ctx, question{name: host, qtype: family.qtype()})
		if err != nil {
			failure = err
			continue
		}
		addrs = append(addrs, a.addrs...)
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("%s: %w: %w", host, errNoBootstrap, orElse(failure, ErrNotFound))
	}
	return addrs, nil
}
