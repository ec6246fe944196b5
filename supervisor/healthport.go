package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cleversocks/conn/task"
	"cleversocks/listener"
	"cleversocks/supervisor/config"
	"cleversocks/supervisor/upgrade"
)

// healthPort is a port that accepts while the daemon is ready, for load
// balancers that can do no more than connect. Its address is that of the start.
type healthPort struct {
	log    *slog.Logger
	tree   *tree
	panics *task.Reporter
	ready  func() error

	inherited *upgrade.Inherited // what this process was started with

	opened bool
	asked  netip.AddrPort // of the settings
	at     netip.AddrPort
	mu     sync.Mutex   // of socket, once it is served
	socket net.Listener // nil: not ready
}

// healthLook is how often readiness is looked at.
const healthLook = 500 * time.Millisecond

func (h *healthPort) String() string { return "health port" }

// Prepare binds the port, the first time, so that a bad address fails the
// start, and counts it among those that nobody reaches through the proxy.
func (h *healthPort) Prepare(ctx context.Context, d *draft) (change, error) {
	if h.at.IsValid() {
		d.own = append(d.own, h.at)
	}
	address := d.cfg.Admin.HealthTCP
	if h.opened || address.IsZero() {
		h.opened = true
		return nil, nil //nolint:nilnil // nothing to commit
	}
	socket, err := h.inherit(address.AddrPort)
	if socket == nil && err == nil {
		socket, err = h.listen(ctx, address.AddrPort)
	}
	if err != nil {
		return nil, refused(d.cfg, healthKey, fmt.Errorf("%s: %w", address, bareSocket(err)))
	}
	h.opened, h.socket, h.asked = true, socket, address.AddrPort
	h.at = socket.Addr().(*net.TCPAddr).AddrPort()
	h.at = netip.AddrPortFrom(h.at.Addr().Unmap(), h.at.Port())
	d.own = append(d.own, h.at)
	return healthOpening{h}, nil
}

// healthOpening is a port that was bound and that nobody serves yet.
type healthOpening struct{ of *healthPort }

// Commit serves it.
func (o healthOpening) Commit(ctx context.Context) {
	o.of.tree.add(o.of.tree.admin, o.of)
	o.of.log.LogAttrs(ctx, slog.LevelInfo, "health port listens", slog.String("address", o.of.at.String()))
}

// Rollback closes it.
func (o healthOpening) Rollback(context.Context) {
	_ = o.of.socket.Close() // nobody was served
	o.of.opened, o.of.at, o.of.socket = false, netip.AddrPort{}, nil
}

// inherit is the port's socket, if a predecessor has passed it, which closes its
// own when it is not ready any more. What has connected waits in the queue of both.
func (h *healthPort) inherit(at netip.AddrPort) (net.Listener, error) {
	files := h.inherited.Take(func(s upgrade.Socket) bool {
		return s.Role == upgrade.RoleHealth && (s.Address == at.String() || s.Bound == at.String())
	})
	if len(files) == 0 {
		return nil, nil //nolint:nilnil // it is to be opened
	}
	defer closeFiles(files) // the listener has its own
	return listener.Inherit(files[0])
}

// passing is the port's socket for a successor.
func (h *healthPort) passing() ([]upgrade.Passing, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	conn, ok := h.socket.(syscall.Conn)
	if !ok {
		return nil, nil // it is off, or not ready
	}
	p, err := upgrade.Pass(upgrade.Socket{Role: upgrade.RoleHealth, Address: h.asked.String(), Bound: h.at.String()}, conn)
	if err != nil {
		return nil, err
	}
	return []upgrade.Passing{p}, nil
}

// listen opens the port, beside a predecessor's of before it was passed on.
func (h *healthPort) listen(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		return errors.Join(raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }), err)
	}}
	lc.SetMultipathTCP(false)
	return lc.Listen(ctx, adminNetwork(config.AdminAddress{ListenAddress: config.ListenAddress{AddrPort: at}}), at.String())
}

// Serve opens and closes the port as readiness comes and goes, until ctx ends.
func (h *healthPort) Serve(ctx context.Context) error {
	scope, inner := task.New(ctx, h.panics, "health")
	defer scope.Wait() //nolint:errcheck // an accept loop's end is no error
	defer h.shut()
	look := time.NewTicker(healthLook)
	defer look.Stop()
	if h.socket != nil {
		h.serve(scope, h.socket)
	}
	for {
		select {
		case <-look.C:
		case <-inner.Done():
			return ctx.Err()
		}
		switch ready := h.ready() == nil; {
		case ready && h.socket == nil:
			socket, err := h.listen(inner, h.at)
			if err != nil {
				h.log.LogAttrs(ctx, slog.LevelWarn, "the health port cannot be opened again", slog.String("address", h.at.String()), slog.Any("err", err))
				continue
			}
			h.mu.Lock()
			h.socket = socket
			h.mu.Unlock()
			h.serve(scope, socket)
		case !ready:
			h.shut()
		}
	}
}

func (h *healthPort) shut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.socket != nil {
		_ = h.socket.Close() // its loop ends
		h.socket = nil
	}
}

// serve closes what connects.
func (h *healthPort) serve(scope *task.Scope, socket net.Listener) {
	scope.Go(func() error {
		for {
			c, err := socket.Accept()
			switch {
			case err == nil:
				_ = c.Close() // nothing was said
			case errors.Is(err, net.ErrClosed):
				return nil
			default:
				time.Sleep(healthLook / 10) //nolint:forbidigo // out of descriptors: accept would spin
			}
		}
	})
}
