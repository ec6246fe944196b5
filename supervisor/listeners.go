package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/thejerf/suture/v4"

	"cleversocks/conn"
	"cleversocks/listener"
	"cleversocks/metrics"
	"cleversocks/supervisor/config"
)

// listeners are the open listeners. Only the reloader's goroutine changes
// them once the daemon runs.
type listeners struct {
	log     *slog.Logger
	metrics *metrics.Registry
	ingress *suture.Supervisor
	handler listener.Handler
	open    map[listenerKey]*running
}

// listenerKey is what makes a listener the same one after a reload. Port 0
// may be asked for twice on an address.
type listenerKey struct {
	address string
	shards  int
	nth     int
}

// running is a listener and the tokens of its accept services.
type running struct {
	*listener.Listener
	tokens []suture.ServiceToken
	policy conn.Listener // of the settings in force
}

// change is what a configuration asks of the listeners, with the sockets
// already open. It is either committed or rolled back.
type change struct {
	of     *listeners
	next   map[listenerKey]*running
	wanted map[listenerKey]listener.Options
	// settings are those of the listeners in wanted.
	settings map[listenerKey]config.Listener
	added    []listenerKey
	removed  []listenerKey
}

// prepare opens what cfg has and the daemon does not. Sockets of unchanged
// addresses are not touched.
func (ls *listeners) prepare(ctx context.Context, cfg *config.Config) (*change, error) {
	c := &change{
		of: ls, next: make(map[listenerKey]*running), wanted: make(map[listenerKey]listener.Options),
		settings: make(map[listenerKey]config.Listener),
	}
	for _, l := range cfg.Listeners {
		key := listenerKey{address: l.Address.String(), shards: l.ReusePort}
		for {
			if _, taken := c.wanted[key]; !taken {
				break
			}
			key.nth++
		}
		c.wanted[key] = listenerOptions(l, cfg, ls.log, ls.metrics)
		c.settings[key] = l
		if r := ls.open[key]; r != nil {
			c.next[key] = r
		} else {
			c.added = append(c.added, key)
		}
	}
	for key := range ls.open {
		if c.next[key] == nil {
			c.removed = append(c.removed, key)
		}
	}
	for _, key := range c.added {
		opened, err := c.openOne(ctx, key)
		if err != nil {
			return nil, errors.Join(err, c.rollback(ctx))
		}
		c.next[key] = &running{Listener: opened}
	}
	return c, nil
}

// openOne opens a listener; a listener that is to go and is in its way (the
// same port on another address, or another number of sockets) goes first.
func (c *change) openOne(ctx context.Context, key listenerKey) (*listener.Listener, error) {
	options := c.wanted[key]
	opened, err := listener.Open(ctx, options)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return opened, err
	}
	closed := false
	for _, old := range c.removed {
		if portOf(c.of.open[old].Name()) == portOf(options.Address) {
			c.of.open[old].Close()
			closed = true
		}
	}
	if !closed {
		return nil, err
	}
	return listener.Open(ctx, options)
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// addresses are the addresses bound once the change is committed.
func (c *change) addresses() []netip.AddrPort {
	var all []netip.AddrPort
	for _, r := range c.next {
		all = append(all, r.Addr())
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return all
}

// rollback closes what prepare opened, and opens again what it had to close.
func (c *change) rollback(ctx context.Context) error {
	for _, key := range c.added {
		if r := c.next[key]; r != nil {
			r.Close()
		}
	}
	var errs []error
	for _, key := range c.removed {
		old := c.of.open[key]
		if !old.Closed() {
			continue
		}
		again, err := old.Reopen(ctx)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		c.of.stop(ctx, old)
		c.of.open[key] = &running{Listener: again, policy: old.policy}
		c.of.serve(c.of.open[key])
	}
	return errors.Join(errs...)
}

// commit starts the new listeners and stops those that are gone. Options of
// the unchanged ones are set on their live sockets.
func (c *change) commit(ctx context.Context) {
	for key, r := range c.next {
		r.policy = listenerPolicy(c.settings[key])
		if slices.Contains(c.added, key) {
			continue
		}
		if err := r.SetOptions(c.wanted[key]); err != nil {
			c.of.log.LogAttrs(ctx, slog.LevelWarn, "socket options not set", slog.String("address", r.Name()), slog.Any("err", err))
		}
	}
	for _, key := range c.removed {
		old := c.of.open[key]
		c.of.stop(ctx, old)
		c.of.log.LogAttrs(ctx, slog.LevelInfo, "listener closed", slog.String("address", old.Name()))
	}
	for _, key := range c.added {
		c.of.serve(c.next[key])
		c.announceListener(ctx, key)
	}
	c.of.open = c.next
}

func (ls *listeners) serve(r *running) {
	for _, s := range r.Services(ls.handler) {
		r.tokens = append(r.tokens, ls.ingress.Add(s))
	}
}

func (ls *listeners) stop(ctx context.Context, r *running) {
	r.Close()
	for _, token := range r.tokens {
		if err := ls.ingress.RemoveAndWait(token, ingressTimeout); err != nil && !errors.Is(err, suture.ErrSupervisorNotRunning) {
			ls.log.LogAttrs(ctx, slog.LevelError, "accept service did not stop", slog.String("address", r.Name()), slog.Any("err", err))
		}
	}
}

// closeAll closes every socket, once their services have ended.
func (ls *listeners) closeAll() {
	for _, r := range ls.open {
		r.Close()
	}
}

func listenerOptions(l config.Listener, cfg *config.Config, log *slog.Logger, m *metrics.Registry) listener.Options {
	return listener.Options{
		Address: l.Address.String(),
		Shards:  l.ReusePort,
		Keepalive: listener.Keepalive{
			Idle:     cfg.Relay.Keepalive.Idle.D(),
			Interval: cfg.Relay.Keepalive.Interval.D(),
			Count:    cfg.Relay.Keepalive.Count,
		},
		NoDelay:    cfg.Relay.NoDelay,
		Congestion: cfg.Relay.Congestion,
		Log:        log,
		Metrics:    m,
	}
}
