package conn

import (
	"cmp"
	"context"
	"sync"
	"time"

	"cleversocks/conn/relay"
)

// scope is a session's context, and what cancels it. Up to the relay it is one
// of package context's, a child of the group's. Its registration, its channel
// and its table of children would then stay for as long as an idle tunnel, which
// needs none of them: so it hands over to the tunnel, and lets them go.
type scope struct {
	mu      sync.Mutex
	shaking context.Context //nolint:containedctx // it is the scope; nil once a tunnel has taken over
	cancel  context.CancelCauseFunc
	tunnel  *relay.Tunnel
	ended   bool // with a tunnel: cancelled
}

// begin makes the scope a child of parent.
func (s *scope) begin(parent context.Context) (context.Context, context.CancelCauseFunc) {
	s.shaking, s.cancel = context.WithCancelCause(parent)
	return s, s.end
}

// handTo has the scope's end be the tunnel's from now on. From then on the
// group ends the tunnels itself: see Group.endTunnels.
func (s *scope) handTo(t *relay.Tunnel) {
	s.mu.Lock()
	shaking, cancel := s.shaking, s.cancel
	s.shaking, s.cancel, s.tunnel, s.ended = nil, nil, t, shaking.Err() != nil
	ended := s.ended
	s.mu.Unlock()
	if ended {
		t.End(context.Cause(shaking))
	}
	cancel(nil) // leaves the parent
}

// end cancels the scope, which ends its tunnel.
func (s *scope) end(why error) {
	s.mu.Lock()
	if s.tunnel == nil {
		s.cancel(why) // under the lock: handTo sees it, or this sees the tunnel
	}
	tunnel, before := s.tunnel, s.ended
	s.ended = tunnel != nil
	s.mu.Unlock()
	if tunnel != nil && !before {
		tunnel.End(cmp.Or(why, context.Canceled))
	}
}

// handTo gives the session's end and its two conns to a tunnel. The session does
// not keep them: when the tunnel lasts, it closes them and frees their memory.
func (s *session) handTo(t *relay.Tunnel) {
	s.scope.handTo(t)
	s.scope.mu.Lock()
	defer s.scope.mu.Unlock()
	s.socket, s.conn, s.server = nil, nil, nil
}

// control makes the session a dialedSocket.
func (s *session) control(f func(fd uintptr)) error {
	s.scope.mu.Lock()
	server, tunnel := s.server, s.scope.tunnel
	s.scope.mu.Unlock()
	if tunnel != nil {
		return tunnel.ControlServer(f)
	}
	return dialedConn{server}.control(f)
}

// inner is the context of before the relay, or nil.
func (s *scope) inner() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shaking
}

// Deadline is none.
func (s *scope) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done is for the handshake. A tunnel's end is no event of its scope.
func (s *scope) Done() <-chan struct{} {
	if inner := s.inner(); inner != nil {
		return inner.Done()
	}
	return nil
}

// Err is whether the scope was cancelled.
func (s *scope) Err() error {
	if inner := s.inner(); inner != nil {
		return inner.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return context.Canceled
	}
	return nil
}

// Value is what package context finds its own contexts by, so that the scope
// has children at no cost, and a cause.
func (s *scope) Value(key any) any {
	if inner := s.inner(); inner != nil {
		return inner.Value(key)
	}
	return nil
}

// endTunnels ends the tunnels of a group whose context has ended.
func (g *Group) endTunnels(why error) {
	g.mu.Lock()
	list := make([]*session, 0, len(g.sessions))
	for s := range g.sessions {
		list = append(list, s)
	}
	g.mu.Unlock()
	for _, s := range list {
		s.cancel(why)
	}
}
