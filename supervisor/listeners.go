package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/thejerf/suture/v4"

	"cleversocks/conn"
	"cleversocks/listener"
	"cleversocks/listener/transparent"
	"cleversocks/metrics"
	"cleversocks/supervisor/config"
	"cleversocks/supervisor/upgrade"
)

// listeners are the open listeners, and the services that accept from them.
// They belong to the reloader; others see health alone.
type listeners struct {
	log     *slog.Logger
	metrics *metrics.Registry
	tree    *tree
	handler listener.Handler
	health  *listenerHealth
	// inherited is what this process was started with.
	inherited *upgrade.Inherited
	open      map[listenerKey]*running // also one that was lost: closed
	names     []string                 // of open, in the order of the settings
	order     []listenerKey            // likewise
}

// listenerHealth is how many of the configured listeners are not open.
type listenerHealth struct{ lost atomic.Int32 }

// listenerKey is what makes a listener the same one after a reload. Port 0
// may be asked for twice on an address.
type listenerKey struct {
	address string
	name    string
	mode    transparent.Mode
	nth     int
}

// running is a listener and the tokens of its accept services.
type running struct {
	*listener.Listener
	tokens []suture.ServiceToken
	// services are the names of those that accept.
	services []string
	policy   conn.Listener // of the settings in force
	paused   bool          // a successor is about to accept
	lost     bool          // its file is gone and cannot be made anew, which is said
	mode     transparent.Mode
	// datagrams are for those that a packet filter's tproxy leads here.
	datagrams []*transparent.Datagrams
	diverting []service // of datagrams, once they have been served
}

// socketChange is what a configuration asks of the listeners, with the sockets
// already open.
type socketChange struct {
	of     *listeners
	next   map[listenerKey]*running
	wanted map[listenerKey]listener.Options
	// settings are those of the listeners in wanted.
	settings map[listenerKey]config.Listener
	order    []listenerKey // of wanted
	added    []listenerKey
	removed  []listenerKey
	// policies are the draft's, by name; what follows completes them.
	policies map[string]conn.Listener
}

// Prepare opens what the draft has and the daemon does not.
// Sockets of unchanged addresses are not touched. Who accepts from the new
// ones, is for the part serving.
func (ls *listeners) Prepare(ctx context.Context, d *draft) (change, error) {
	c, err := ls.prepare(ctx, d.cfg)
	if err != nil {
		return nil, err
	}
	d.sockets = c
	d.own = append(d.own, c.addresses()...)
	c.policies = c.newPolicies()
	d.policy.Listeners = c.policies
	return c, nil
}

// serving is the part that accepts from the listeners. It comes after the
// policy: a connection of a new listener must not meet the old one.
func (ls *listeners) serving() part {
	return onCommit(func(ctx context.Context, d *draft) { d.sockets.serve(ctx) })
}

func (ls *listeners) prepare(ctx context.Context, cfg *config.Config) (*socketChange, error) {
	c := &socketChange{
		of: ls, next: make(map[listenerKey]*running), wanted: make(map[listenerKey]listener.Options),
		settings: make(map[listenerKey]config.Listener),
	}
	for _, l := range cfg.Listeners {
		key := listenerKey{address: l.Address.String(), name: l.Name, mode: transparentMode(l)}
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
	if err := c.inherit(cfg); err != nil {
		return nil, err
	}
	if err := c.openAdded(ctx, cfg); err != nil {
		return nil, errors.Join(err, c.giveBack(ctx))
	}
	if err := c.suits(cfg); err != nil {
		return nil, errors.Join(err, c.giveBack(ctx))
	}
	return c, nil
}

// openAdded opens the new listeners. It begins with those whose address is
// free. The others need the address of a listener that is to go: that one
// serves clients until then, and is closed when hardly anything can fail.
func (c *socketChange) openAdded(ctx context.Context, cfg *config.Config) error {
	refuse := func(key listenerKey, err error) error {
		return refused(cfg, addressKey(slices.Index(c.order, key)), err)
	}
	var contested []listenerKey
	for _, key := range c.added {
		opened, err := c.openOne(ctx, key)
		switch {
		case err == nil:
			if c.next[key], err = newRunning(ctx, key.mode, opened, c.datagrams(key)); err != nil {
				return err
			}
		case errors.Is(err, syscall.EADDRINUSE):
			contested = append(contested, key)
		default:
			return refuse(key, err)
		}
	}
	for _, key := range contested {
		c.makeWay(c.wanted[key].Address)
		opened, err := listener.Open(ctx, c.wanted[key])
		if err != nil {
			return refuse(key, c.explain(key, err))
		}
		if c.next[key], err = newRunning(ctx, key.mode, opened, c.datagrams(key)); err != nil {
			return err
		}
	}
	return nil
}

// makeWay closes the listeners that are to go and have the port, on another
// address or in another mode, or the path.
func (c *socketChange) makeWay(address string) {
	for _, old := range c.removed {
		if portOf(c.of.open[old].Address()) == portOf(address) {
			c.of.open[old].Close()
		}
	}
}

// explain says which other listener of ours has the address.
func (c *socketChange) explain(key listenerKey, err error) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	if p := c.of.inherited.From(); p != nil && c.of.open == nil {
		return fmt.Errorf("%w (the predecessor, process %d, may have it: what takes the place of one of its listeners needs a reload or a restart)", err, p.Hello.PID)
	}
	if own := c.holder(key.address); own != "" {
		return fmt.Errorf("listener %s: %w by this daemon's own listener %s: a port on all addresses leaves none of them for another listener",
			key.address, syscall.EADDRINUSE, own)
	}
	return err
}

// holder is the listener that an address would clash with, or "".
func (c *socketChange) holder(address string) string {
	for _, r := range c.next {
		if overlap(r.Address(), address) {
			return r.Name()
		}
	}
	return ""
}

// overlap says that two addresses cannot both be listened on: 0.0.0.0 leaves none
// of IPv4, and :: none at all.
func overlap(a, b string) bool {
	first, errA := netip.ParseAddrPort(a)
	second, errB := netip.ParseAddrPort(b)
	if errA != nil || errB != nil || first.Port() != second.Port() || first.Port() == 0 {
		return false
	}
	return covers(first.Addr().Unmap(), second.Addr().Unmap()) || covers(second.Addr().Unmap(), first.Addr().Unmap())
}

func covers(a, b netip.Addr) bool {
	return a == b || a.IsUnspecified() && (a.Is6() || b.Is4())
}

// portOf is what no two sockets have at a time: a port, or a unix socket.
func portOf(address string) string {
	if strings.HasPrefix(address, "unix:") || strings.HasPrefix(address, "systemd:") {
		return address
	}
	_, port, _ := net.SplitHostPort(address)
	return port
}

// addresses are the addresses bound once the change is committed.
func (c *socketChange) addresses() []netip.AddrPort {
	var all []netip.AddrPort
	for _, r := range c.next {
		all = append(all, r.Addrs()...)
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return all
}

// Rollback closes what was opened, and opens again what had to be closed.
func (c *socketChange) Rollback(ctx context.Context) {
	if err := c.giveBack(ctx); err != nil {
		c.of.log.LogAttrs(ctx, slog.LevelError, "a listener could not be opened again", slog.Any("err", err))
	}
}

func (c *socketChange) giveBack(ctx context.Context) error {
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
		reopened, err := newRunning(ctx, key.mode, again, nil)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		reopened.policy = old.policy
		c.of.open[key] = reopened
		c.of.serve(c.of.open[key])
	}
	c.of.health.lost.Store(int32(len(errs)))
	return errors.Join(errs...)
}

// ready is an error while a configured listener is not open: another program
// took its address while a reload that failed had closed it.
func (h *listenerHealth) ready() error {
	if n := h.lost.Load(); n > 0 {
		return fmt.Errorf("%d of the listeners could not be opened again; SIGHUP tries once more", n)
	}
	return nil
}

// Commit sets the options of the unchanged listeners on their live sockets.
func (c *socketChange) Commit(ctx context.Context) {
	for key, r := range c.next {
		r.policy = c.policies[r.Name()]
		if was := r.Shards(); was != max(c.wanted[key].Shards, 1) && !key.systemd() {
			c.of.log.LogAttrs(ctx, slog.LevelWarn, "reuse_port has changed, which takes a restart: the listener keeps its accept sockets",
				slog.String("address", r.Name()), slog.Int("sockets", was), slog.Int("reuse_port", c.wanted[key].Shards))
		}
		if slices.Contains(c.added, key) {
			continue
		}
		if err := r.SetOptions(c.wanted[key]); err != nil {
			c.of.log.LogAttrs(ctx, slog.LevelWarn, "socket options not set", slog.String("address", r.Name()), slog.Any("err", err))
		}
	}
}

// serve starts the new listeners and stops those that are gone.
func (c *socketChange) serve(ctx context.Context) {
	for _, key := range c.removed {
		old := c.of.open[key]
		c.of.stop(ctx, old)
		c.of.log.LogAttrs(ctx, slog.LevelInfo, "listener closed", slog.String("address", old.Name()))
	}
	for _, key := range c.added {
		c.of.serve(c.next[key])
		c.announceListener(ctx, key)
	}
	c.of.open, c.of.names, c.of.order = c.next, nil, c.order
	for _, key := range c.order {
		c.of.names = append(c.of.names, c.next[key].Name())
	}
	c.of.health.lost.Store(0)
}

func (ls *listeners) serve(r *running) {
	r.services = nil
	add := func(s service) {
		r.tokens = append(r.tokens, ls.tree.add(ls.tree.ingress, s))
		r.services = append(r.services, s.String())
	}
	for _, s := range r.Services(ls.handler) {
		add(s)
	}
	for _, s := range r.diversions(ls.handler) {
		add(s)
	}
}

// mend opens unix sockets anew whose file somebody has removed, as what tidies up
// directories for temporary files does: nobody could connect to them any more.
func (ls *listeners) mend(ctx context.Context) {
	for key, r := range ls.open {
		if !r.FileIsGone() {
			continue
		}
		again, err := r.Reopen(ctx)
		if err != nil {
			if !r.lost {
				ls.log.LogAttrs(ctx, slog.LevelError, "the file of a unix socket is gone, and nobody can connect until it can be made anew",
					slog.String("address", r.Name()), slog.Any("err", err))
			}
			r.lost = true
			continue
		}
		ls.stop(ctx, r)
		ls.open[key] = &running{Listener: again, policy: r.policy, mode: r.mode}
		ls.serve(ls.open[key])
		ls.log.LogAttrs(ctx, slog.LevelWarn, "somebody has removed the file of a unix socket: made anew", slog.String("address", r.Name()))
	}
}

// stop ends a listener's services, which take what is queued, and closes it.
func (ls *listeners) stop(ctx context.Context, r *running) {
	defer r.Close()
	for _, token := range r.tokens {
		if err := ls.tree.ingress.RemoveAndWait(token, ingressTimeout); err != nil && !errors.Is(err, suture.ErrSupervisorNotRunning) {
			ls.log.LogAttrs(ctx, slog.LevelError, "accept service did not stop", slog.String("address", r.Name()), slog.Any("err", err))
		}
	}
	ls.metrics.Listener.Forget(r.Name())
	for _, name := range r.services {
		ls.tree.forget(name)
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
		Address:     l.Address.String(),
		File:        listener.File{Mode: fs.FileMode(l.Mode), UID: l.UID, GID: l.GID},
		Name:        l.Name,
		Shards:      l.ReusePort,
		Transparent: transparentMode(l),
		Sockets:     socketOptions(cfg),
		Congestion:  cfg.Relay.Congestion,
		Log:         log,
		Metrics:     m,
	}
}
