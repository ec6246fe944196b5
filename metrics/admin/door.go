package admin

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"cleversocks/conn/reset"
)

// MaxConnections is how many clients the endpoint serves at a time. They come
// out of the same descriptors as the proxy's, whose budget leaves room for
// these few: whoever opens a thousand here must not stop the proxy.
const MaxConnections = 32

// door is the endpoint's socket with a bound. When it is full, the client that
// has been quiet longest makes way, so that clients who say nothing do not keep
// a probe or an operator out. One whose request is being answered stays.
type door struct {
	net.Listener
	turn turn
	full func() // hears of who is turned away; nil: nobody does

	mu     sync.Mutex
	places map[net.Conn]*place
}

// place is one connection's.
type place struct {
	since time.Time // of the accept, or of the last answer's end
	busy  bool      // a handler has it
}

func newDoor(l net.Listener, full func()) *door {
	return &door{Listener: l, turn: turn{closed: make(chan struct{})}, full: full, places: make(map[net.Conn]*place)}
}

// Accept waits for a connection that there is room for. One too many is reset.
func (d *door) Accept() (net.Conn, error) {
	for {
		c, err := d.turn.accept(d.Listener)
		if err != nil {
			return nil, err
		}
		if p := (&probing{Conn: c}); d.enter(p) {
			return p, nil
		}
		reset.Close(c)
	}
}

// Close closes the socket.
func (d *door) Close() error {
	d.turn.end()
	return d.Listener.Close()
}

// enter gives a connection a place, at the cost of the quietest if it must.
func (d *door) enter(c net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.places) >= MaxConnections {
		if d.full != nil {
			d.full()
		}
		if !d.makeRoom() {
			return false
		}
	}
	d.places[c] = &place{since: time.Now()}
	return true
}

// makeRoom closes the connection that has been quiet longest. The caller holds
// mu.
func (d *door) makeRoom() bool {
	var quietest net.Conn
	for c, p := range d.places {
		if !p.busy && (quietest == nil || p.since.Before(d.places[quietest].since)) {
			quietest = c
		}
	}
	if quietest == nil {
		return false
	}
	delete(d.places, quietest)
	_ = quietest.Close()
	return true
}

// state is the server's ConnState hook.
func (d *door) state(c net.Conn, s http.ConnState) {
	if s == http.StateClosed || s == http.StateHijacked {
		d.mu.Lock()
		delete(d.places, c)
		d.mu.Unlock()
	}
}

type placeKey struct{}

// connContext is the server's ConnContext hook: requests find their place.
func (d *door) connContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, placeKey{}, c)
}

// occupied marks a request's connection as busy while its handler runs.
func (d *door) occupied(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _ := r.Context().Value(placeKey{}).(net.Conn)
		d.set(c, true)
		defer d.set(c, false)
		next.ServeHTTP(w, r)
	})
}

func (d *door) set(c net.Conn, busy bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.places[c]; p != nil {
		p.busy, p.since = busy, time.Now()
	}
}
