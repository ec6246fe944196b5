package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
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
	open    map[listenerKey]*running // also one that was lost: closed
	lost    atomic.Int32             // how many of open are
	names   []string                 // of open, in the order of the settings
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
	order    []listenerKey // of wanted
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
		c.order = append(c.order, key)
		if r := ls.open[key]; r != nil && !r.Closed() {
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
	if err := c.openAdded(ctx); err != nil {
		return nil, errors.Join(err, c.rollback(ctx))
	}
	return c, nil
}

// openAdded opens the new listeners: those first that nothing of ours is in
// the way of, so that a listener that works is closed when little can fail.
func (c *change) openAdded(ctx context.Context) error {
	var contested []listenerKey
	for _, key := range c.added {
		opened, err := listener.Open(ctx, c.wanted[key])
		switch {
		case err == nil:
			c.next[key] = &running{Listener: opened}
		case errors.Is(err, syscall.EADDRINUSE):
			contested = append(contested, key)
		default:
			return err
		}
	}
	for _, key := range contested {
		c.makeWay(c.wanted[key].Address)
		opened, err := listener.Open(ctx, c.wanted[key])
		if err != nil {
			return c.explain(key, err)
		}
		c.next[key] = &running{Listener: opened}
	}
	return nil
}

// makeWay closes the listeners that are to go and have the port: on another
// address, or with another number of sockets.
func (c *change) makeWay(address string) {
	for _, old := range c.removed {
		if portOf(c.of.open[old].Name()) == portOf(address) {
			c.of.open[old].Close()
		}
	}
}

// explain says which other listener of ours has the address.
func (c *change) explain(key listenerKey, err error) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	if own := c.holder(key.address); own != "" {
		return fmt.Errorf("listener %s: %w by this daemon's own listener %s: a port on all addresses leaves none of them for another listener",
			key.address, syscall.EADDRINUSE, own)
	}
	return err
}

// holder is the listener that an address would clash with, or "".
func (c *change) holder(address string) string {
	for _, r := range c.next {
		if overlap(r.Name(), address) {
			return r.Name()
		}
	}
	return ""
}

// overlap says that two addresses cannot both be listened on.
func overlap(a, b string) bool {
	first, errA := netip.ParseAddrPort(a)
	second, errB := netip.ParseAddrPort(b)
	if errA != nil || errB != nil || first.Port() != second.Port() || first.Port() == 0 {
		return false
	}
	return first.Addr() == second.Addr() || first.Addr().IsUnspecified() || second.Addr().IsUnspecified()
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
	c.of.lost.Store(int32(len(errs)))
	return errors.Join(errs...)
}

// ready is an error while a configured listener is not open: another program
// took its address while a reload that failed had closed it.
func (ls *listeners) ready() error {
	if n := ls.lost.Load(); n > 0 {
		return fmt.Errorf("%d of the listeners could not be opened again; SIGHUP tries once more", n)
	}
	return nil
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
	c.of.open, c.of.names = c.next, nil
	for _, key := range c.order {
		c.of.names = append(c.of.names, c.next[key].Name())
	}
	c.of.lost.Store(0)
}

func (ls *listeners) serve(r *running) {
	for _, s := range r.Services(ls.handler) {
		ls.metrics.Daemon.Restarts(s.String())
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
