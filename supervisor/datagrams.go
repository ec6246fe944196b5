package supervisor

import (
	"context"
	"fmt"

	"cleversocks/conn"
	"cleversocks/listener"
	"cleversocks/listener/transparent"
)

// diverter serves the datagrams that a packet filter gives to a listener; the
// group of connections does.
type diverter interface {
	NewDiversion(listener string, socket *transparent.Datagrams) *conn.Diversion
}

// newRunning is an opened listener. One that a packet filter's tproxy leads to
// gets datagrams, too, at the same address. It closes the listener when it fails.
func newRunning(ctx context.Context, mode transparent.Mode, opened *listener.Listener) (*running, error) {
	r := &running{Listener: opened, mode: mode}
	if mode != transparent.TPROXY {
		return r, nil
	}
	for _, at := range opened.Addrs() {
		socket, err := transparent.ListenDatagrams(ctx, at.String())
		if err != nil {
			r.Close()
			return nil, fmt.Errorf("listener %s: datagrams: %w", opened.Name(), err)
		}
		r.datagrams = append(r.datagrams, socket)
	}
	return r, nil
}

// diversions are the services of a listener's datagrams.
func (r *running) diversions(handler listener.Handler) []service {
	group, ok := handler.(diverter)
	if !ok {
		return nil
	}
	var all []service
	for _, socket := range r.datagrams {
		all = append(all, group.NewDiversion(r.Name(), socket))
	}
	return all
}

// Close closes the listener and its socket for datagrams.
func (r *running) Close() {
	r.Listener.Close()
	for _, socket := range r.datagrams {
		_ = socket.Close()
	}
}
