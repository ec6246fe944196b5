package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/thejerf/suture/v4"

	"cleversocks/listener"
	"cleversocks/listener/transparent"
	"cleversocks/supervisor/config"
	"cleversocks/supervisor/upgrade"
)

// inherit gives new listeners what systemd or a predecessor has passed for
// them. Identity comes first. A listener that another name or mode was given
// may still have the port that its settings spell out, and nobody else can have
// bound; port 0 is never matched by its address.
func (c *socketChange) inherit(cfg *config.Config) error {
	var faults []config.Fault
	for _, key := range c.added {
		name := c.settings[key].Address.Systemd
		if name == "" {
			continue
		}
		files, err := c.of.inherited.Named(name)
		if err != nil {
			faults = append(faults, config.Fault{Key: c.path(key) + ".address", Text: err.Error()})
			continue
		}
		o := c.wanted[key]
		o.Inherited, o.Lasting = files, true
		c.wanted[key] = o
	}
	for _, fits := range []func(key listenerKey, s upgrade.Socket) bool{
		func(key listenerKey, s upgrade.Socket) bool { return keyOf(s) == key },
		func(key listenerKey, s upgrade.Socket) bool { return s.Bound == key.address },
	} {
		for _, key := range c.added {
			o := c.wanted[key]
			if o.Inherited == nil {
				o.Inherited = c.of.inherited.Take(func(s upgrade.Socket) bool {
					return s.Role == upgrade.RoleListener && fits(key, s) && sameFile(s)
				})
				c.wanted[key] = o
			}
		}
	}
	return cfg.Invalid(faults)
}

// datagrams are the sockets for datagrams that a predecessor has passed for a
// listener.
func (c *socketChange) datagrams(key listenerKey) []*os.File {
	if key.mode != transparent.TPROXY {
		return nil
	}
	at := c.settings[key].Address.String()
	return c.of.inherited.Take(func(s upgrade.Socket) bool {
		as := keyOf(s)
		return s.Role == upgrade.RoleDatagrams && (as == key || s.Bound == at)
	})
}

// path is the listener's place in the settings.
func (c *socketChange) path(key listenerKey) string {
	return "listener[" + strconv.Itoa(slices.Index(c.order, key)) + "]"
}

// openOne opens a listener, or takes over what was passed for it.
func (c *socketChange) openOne(ctx context.Context, key listenerKey) (*listener.Listener, error) {
	o := c.wanted[key]
	opened, err := listener.Open(ctx, o)
	if o.Inherited == nil {
		return opened, err
	}
	if !o.Lasting {
		closeFiles(o.Inherited) // the listener has its own
	}
	if err != nil && o.Lasting {
		return nil, fmt.Errorf("%w: %w", config.ErrInvalid, err)
	}
	if err == nil {
		opened.Pass() // a predecessor has it until it says otherwise
	}
	return opened, err
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // nothing was written
	}
}

// suits says what of the settings means nothing on the sockets that systemd
// has passed.
func (c *socketChange) suits(cfg *config.Config) error {
	var errs []error
	for i, key := range c.order {
		if r := c.next[key]; key.systemd() {
			errs = append(errs, cfg.FitsSystemd(i, r.IsUnix()))
		}
	}
	return errors.Join(errs...)
}

func (k listenerKey) systemd() bool { return listener.IsSystemd(k.address) }

// socketOf is a listener's identity for a successor.
func (k listenerKey) socket() upgrade.Socket {
	return upgrade.Socket{Role: upgrade.RoleListener, Address: k.address, Name: k.name, Mode: strconv.Itoa(int(k.mode)), Nth: k.nth}
}

// keyOf is the key of which a predecessor tells.
func keyOf(s upgrade.Socket) listenerKey {
	mode, _ := strconv.Atoi(s.Mode) // of our own making
	return listenerKey{address: s.Address, name: s.Name, mode: transparent.Mode(mode), nth: s.Nth}
}

// sameFile reports whether the path of a unix socket still leads to it.
func sameFile(s upgrade.Socket) bool {
	path, isUnix := listener.UnixPath(s.Bound)
	if !isUnix || strings.HasPrefix(path, "@") {
		return true
	}
	info, err := os.Lstat(path)
	if err != nil {
		return false
	}
	now := fileID(info)
	return now != nil && s.File != nil && *now == *s.File
}

// fileID is a file's identity; nil: there is no file.
func fileID(info os.FileInfo) *upgrade.FileID {
	if info == nil {
		return nil
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return &upgrade.FileID{Device: stat.Dev, Inode: stat.Ino}
}

// passing is the sockets for a successor, and of which listener each is, for
// which nil stands with datagrams. Those of systemd are not among them: Inherited
// has them.
func (ls *listeners) passing() (all []upgrade.Passing, owners []*running, err error) {
	for _, key := range ls.order {
		r := ls.open[key]
		if r.Closed() {
			continue
		}
		datagrams, err := r.passDatagrams(key.socket())
		if err != nil {
			upgrade.CloseAll(all)
			return nil, nil, err
		}
		all, owners = append(all, datagrams...), append(owners, make([]*running, len(datagrams))...)
		if key.systemd() {
			continue
		}
		for shard, conn := range r.Conns() {
			as := key.socket()
			as.Shard, as.Bound, as.File = shard, r.Address(), fileID(r.File())
			if at := r.Addr(); at.IsValid() {
				as.Bound = at.String()
			}
			p, err := upgrade.Pass(as, conn)
			if err != nil {
				upgrade.CloseAll(all)
				return nil, nil, err
			}
			all, owners = append(all, p), append(owners, r)
		}
	}
	return all, owners, nil
}

// pause stops accepting from the listeners that a successor has taken over, all
// of their sockets, and from systemd's. Clients wait in the queue meanwhile,
// which is the successor's.
func (ls *listeners) pause(ctx context.Context, taken map[*running]int) {
	for key, r := range ls.open {
		if !key.systemd() && taken[r] < r.Shards() {
			continue
		}
		r.Pass()
		for _, token := range r.tokens {
			if err := ls.tree.ingress.RemoveAndWait(token, ingressTimeout); err != nil && !errors.Is(err, suture.ErrSupervisorNotRunning) {
				ls.log.LogAttrs(ctx, slog.LevelError, "accept service did not stop", slog.String("address", r.Name()), slog.Any("err", err))
			}
		}
		r.tokens, r.paused = nil, true
	}
}

// resume accepts again, as the successor has failed.
func (ls *listeners) resume() {
	for _, r := range ls.open {
		if r.paused {
			r.paused = false
			r.TakeBack()
			ls.serve(r)
		}
	}
}

// own makes what was inherited this process's: its files go when it ends.
func (ls *listeners) own() {
	for _, r := range ls.open {
		r.TakeBack()
	}
}

// addresses are where the listeners are, or have been.
func (ls *listeners) addresses() []netip.AddrPort {
	var all []netip.AddrPort
	for _, r := range ls.open {
		all = append(all, r.Addrs()...)
	}
	return all
}

// exposed reports whether others than this machine reach the i-th listener.
func (ls *listeners) exposed(i int) bool {
	for _, at := range ls.open[ls.order[i]].Addrs() {
		if !at.Addr().IsLoopback() {
			return true
		}
	}
	return false
}

// inherit is the admin endpoint's socket, if systemd or a predecessor has
// passed it; nil: it is to be opened.
func (e *endpoint) inherit(at config.AdminAddress) (net.Listener, error) {
	if at.Systemd != "" {
		files, err := e.inherited.Named(at.Systemd)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", config.ErrInvalid, err)
		}
		if len(files) > 1 {
			return nil, fmt.Errorf("%w: %d sockets were passed under that name, and one is needed", config.ErrInvalid, len(files))
		}
		return listener.Inherit(files[0])
	}
	files := e.inherited.Take(func(s upgrade.Socket) bool {
		return s.Role == upgrade.RoleAdmin && (s.Address == at.String() || s.Bound == at.String()) && sameFile(s)
	})
	if len(files) == 0 {
		return nil, nil //nolint:nilnil // see above
	}
	defer closeFiles(files) // the listener has its own
	return listener.Inherit(files[0])
}

// passing is the endpoint's socket for a successor; none when it is off, or
// systemd's.
func (e *endpoint) passing() ([]upgrade.Passing, error) {
	conn, ok := e.socket.(syscall.Conn)
	if !ok || e.address.Systemd != "" {
		return nil, nil
	}
	as := upgrade.Socket{Role: upgrade.RoleAdmin, Address: e.address.String(), Bound: e.at.String()}
	if e.address.Socket != "" {
		as.Bound, as.File = e.address.String(), e.file
	}
	p, err := upgrade.Pass(as, conn)
	if err != nil {
		return nil, err
	}
	return []upgrade.Passing{p}, nil
}

// ownsFile says whether the file of a unix socket goes when it is closed here:
// if it is still ours.
func (e *endpoint) ownsFile(mine bool) {
	u, isUnix := e.socket.(*net.UnixListener)
	if !isUnix || e.address.Systemd != "" {
		return
	}
	u.SetUnlinkOnClose(mine && sameFile(upgrade.Socket{Bound: e.address.String(), File: e.file}))
}

// yield leaves the clients to a successor that has taken the socket, or has
// systemd's as well.
func (e *endpoint) yield(taken bool) {
	if e.server != nil && (taken || e.address.Systemd != "") {
		e.server.Yield()
	}
}

// resume takes them back, as the successor has failed.
func (e *endpoint) resume() {
	if e.server != nil {
		e.server.Resume()
	}
}
