package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"syscall"

	"cleversocks/metrics/admin"
	"cleversocks/supervisor/config"
	"cleversocks/supervisor/upgrade"
)

// endpoint is the management endpoint. Its address is that of the start.
type endpoint struct {
	log     *slog.Logger
	tree    *tree
	options func(*config.Config) admin.Options
	opened  bool     // or found to be off
	at      net.Addr // nil: off
	waiting *admin.Server
	server  *admin.Server // nil: off

	inherited *upgrade.Inherited // what this process was started with
	socket    net.Listener       // nil: off
	address   config.AdminAddress
	file      *upgrade.FileID // of a unix socket; nil: there is none
}

// Prepare binds the endpoint, the first time, and counts its address among
// those that nobody reaches through the proxy.
func (e *endpoint) Prepare(ctx context.Context, d *draft) (change, error) {
	socket, err := e.open(ctx, d)
	if err != nil {
		return nil, err
	}
	if tcp, ok := e.at.(*net.TCPAddr); ok {
		d.own = append(d.own, tcp.AddrPort())
	}
	if socket == nil {
		return nil, nil //nolint:nilnil // nothing to commit
	}
	return &opening{of: e, socket: socket, server: admin.New(socket, e.options(d.cfg))}, nil
}

// opening is an endpoint that was bound and does not serve yet.
type opening struct {
	of     *endpoint
	socket net.Listener
	server *admin.Server
}

// Commit leaves it to the part serving.
func (o *opening) Commit(context.Context) { o.of.waiting, o.of.server = o.server, o.server }

// Rollback closes it.
func (o *opening) Rollback(context.Context) {
	_ = o.socket.Close() // nobody was served
	o.of.opened, o.of.at, o.of.socket = false, nil, nil
}

// serving is the part that answers at the endpoint, which tells of all others.
func (e *endpoint) serving() part {
	return onCommit(func(ctx context.Context, _ *draft) {
		if e.waiting == nil {
			return
		}
		e.tree.add(e.tree.admin, e.waiting)
		e.waiting = nil
		e.log.LogAttrs(ctx, slog.LevelInfo, "admin endpoint listens", slog.String("address", e.at.String()))
	})
}

// open binds the address; nil when it is off, or open already. The default
// address may be taken, by another instance for one: then it is done without.
func (e *endpoint) open(ctx context.Context, d *draft) (net.Listener, error) {
	at := d.cfg.Admin
	if e.opened || at.Address.IsZero() {
		e.opened = true
		return nil, nil //nolint:nilnil // see above
	}
	if socket, err := e.inherit(at.Address); socket != nil || err != nil {
		if err != nil {
			return nil, fmt.Errorf("admin.address: %s: %w", at.Address, err)
		}
		return e.opens(at.Address, socket), nil
	}
	if at.Address.Socket != "" {
		socket, err := listenUnix(ctx, at.Address.Socket)
		if err != nil {
			return nil, refused(d.cfg, adminKey, fmt.Errorf("%s: %w", at.Address, bareSocket(err)))
		}
		return e.opens(at.Address, socket), nil
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	address := at.Address.String()
	socket, err := lc.Listen(ctx, adminNetwork(at.Address), address)
	if err != nil {
		if !at.Configured && errors.Is(err, syscall.EADDRINUSE) {
			e.log.LogAttrs(ctx, slog.LevelWarn, "the default admin port is taken: going on without the admin endpoint; set admin.address to choose another",
				slog.String("address", address))
			e.opened = true
			return nil, nil //nolint:nilnil // see above
		}
		if own := d.sockets.holder(address); own != "" && errors.Is(err, syscall.EADDRINUSE) {
			err = fmt.Errorf("%w by this daemon's own listener %s", syscall.EADDRINUSE, own)
		}
		return nil, refused(d.cfg, adminKey, fmt.Errorf("%s: %w", address, bareSocket(err)))
	}
	return e.opens(at.Address, socket), nil
}

func (e *endpoint) opens(at config.AdminAddress, socket net.Listener) net.Listener {
	e.opened, e.at, e.address, e.socket = true, socket.Addr(), at, socket
	if at.Socket != "" {
		if info, err := os.Lstat(at.Socket); err == nil {
			e.file = fileID(info)
		}
	}
	return socket
}

// listenUnix opens a socket for its owner alone. A file that a daemon which has
// ended left there is replaced; one that somebody answers at is not.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	var dialer net.Dialer
	if c, err := dialer.DialContext(ctx, "unix", path); err == nil {
		_ = c.Close() // it was only knocked at
		return nil, fmt.Errorf("%w: another daemon answers there", syscall.EADDRINUSE)
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
			_ = os.Remove(path) // else the bind says why not
		}
	}
	// Linux gives the file the mode that the socket has when it is bound: there
	// is no moment in which others may connect.
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		return errors.Join(raw.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }), err)
	}}
	return lc.Listen(ctx, "unix", path)
}

func adminNetwork(a config.AdminAddress) string {
	if a.AddrPort.Addr().Is4() {
		return "tcp4"
	}
	return "tcp"
}
