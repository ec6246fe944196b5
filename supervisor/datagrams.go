package supervisor

import (
	"context"
	"fmt"
	"os"

	"cleversocks/conn"
	"cleversocks/listener"
	"cleversocks/listener/transparent"
	"cleversocks/supervisor/upgrade"
)

// diverter serves the datagrams that a packet filter gives to a listener; the
// group of connections does.
type diverter interface {
	NewDiversion(listener string, socket *transparent.Datagrams) *conn.Diversion
}

// newRunning is an opened listener. One that a packet filter's tproxy leads to
// gets datagrams, too, at the same address: by the sockets that a predecessor has
// passed, as far as these go. It closes them, and the listener when it fails.
func newRunning(ctx context.Context, mode transparent.Mode, opened *listener.Listener, passed []*os.File) (*running, error) {
	defer closeFiles(passed)
	r := &running{Listener: opened, mode: mode}
	if mode != transparent.TPROXY {
		return r, nil
	}
	for i, at := range opened.Addrs() {
		var socket *transparent.Datagrams
		var err error
		if i < len(passed) {
			socket, err = transparent.InheritDatagrams(passed[i])
		} else {
			socket, err = transparent.ListenDatagrams(ctx, at.String())
		}
		if err != nil {
			r.Close()
			return nil, fmt.Errorf("listener %s: datagrams: %w", opened.Name(), err)
		}
		r.datagrams = append(r.datagrams, socket)
	}
	return r, nil
}

// diversions are the services of a listener's datagrams, the same each time:
// they know the flows.
func (r *running) diversions(handler listener.Handler) []service {
	if group, ok := handler.(diverter); ok && r.diverting == nil {
		for _, socket := range r.datagrams {
			r.diverting = append(r.diverting, group.NewDiversion(r.Name(), socket))
		}
	}
	return r.diverting
}

// passDatagrams is the sockets of a listener's datagrams for a successor.
func (r *running) passDatagrams(as upgrade.Socket) (all []upgrade.Passing, err error) {
	as.Role = upgrade.RoleDatagrams
	for i, socket := range r.datagrams {
		as.Shard, as.Bound = i, socket.LocalAddr().String()
		p, err := upgrade.Pass(as, socket)
		if err != nil {
			upgrade.CloseAll(all)
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// Close closes the listener and its socket for datagrams.
func (r *running) Close() {
	r.Listener.Close()
	for _, socket := range r.datagrams {
		_ = socket.Close()
	}
}
