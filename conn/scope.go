package conn

import (
	"cmp"
	"context"
	"sync"
	"time"

	"cleversocks/conn/relay"
)

// scope is a session's context, and what cancels it. In a task, up to the relay,
// it is one of package context's, a child of the group's. Its registration, its
// channel and its table of children cost more than the rest of a handshake, and
// would stay for as long as an idle tunnel, which needs none of them. So on a
// reactor it is a flag, and someone to ring for; and with the relay it hands over
// to the tunnel.
type scope struct {
	mu sync.Mutex
	// holder is who has the session: a *shakingScope, a ringer, or the
	// *relay.Tunnel. Nil: nobody any more.
	holder any
	why    error // why a scope has ended that no shakingScope has; nil: it has not
}

// shakingScope is a scope in a task, up to the relay.
type shakingScope struct {
	ctx    context.Context //nolint:containedctx // it is the scope
	cancel context.CancelCauseFunc
}

// ringer is told, by any goroutine, that the session which it serves has to end, or
// sooner than it knows.
type ringer interface{ Ring() }

// endedScope is why a scope without a context of package context's has ended. It
// is its own cause.
type endedScope struct{ error }

func (e endedScope) Unwrap() error        { return e.error }
func (e endedScope) Is(target error) bool { return target == context.Canceled }

// cancel ends the session, for a reason or for none.
func (s *session) cancel(why error) {
	if scope, ok := s.ctx.(*scope); ok { // a session that was not let in has none
		scope.end(why)
	}
}

// begin makes the scope a child of parent.
func (s *scope) begin(parent context.Context) context.Context {
	s.toTask(parent)
	return s
}

func newShakingScope(parent context.Context) *shakingScope {
	ctx, cancel := context.WithCancelCause(parent)
	return &shakingScope{ctx, cancel}
}

// beginWith is begin for a session that a reactor serves.
func (s *scope) beginWith(r ringer) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holder = r; s.why != nil { // the group was told to end all that it has
		r.Ring()
	}
	return s
}

// toTask makes the scope a child of parent, that of a reactor's session too.
func (s *scope) toTask(parent context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	shaking := newShakingScope(parent)
	if s.holder = shaking; s.why != nil {
		shaking.cancel(s.why)
	}
}

// handTo has the scope's end be the tunnel's from now on. From then on the
// group ends the tunnels itself: see Group.endTunnels.
func (s *scope) handTo(t *relay.Tunnel) {
	s.mu.Lock()
	shaking, _ := s.holder.(*shakingScope)
	if s.holder = t; shaking != nil && shaking.ctx.Err() != nil {
		s.why = context.Cause(shaking.ctx)
	}
	why := s.why
	s.mu.Unlock()
	if why != nil {
		t.End(why)
	}
	if shaking != nil {
		shaking.cancel(nil) // leaves the parent
	}
}

// release is for a session that its reactor, or its tunnel, has no more to do with.
// A tunnel may end before handTo, which is then the one that leaves the parent.
func (s *scope) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, isShaking := s.holder.(*shakingScope); !isShaking {
		s.holder = nil
	}
}

// end cancels the scope, which ends its tunnel.
func (s *scope) end(why error) {
	s.mu.Lock()
	before := s.why != nil
	shaking, isShaking := s.holder.(*shakingScope)
	if isShaking {
		shaking.cancel(why) // under the lock: handTo sees it, or this sees the tunnel
	} else if !before {
		s.why = cmp.Or(why, context.Canceled)
		if r, ok := s.holder.(ringer); ok {
			r.Ring() // under the lock: it may be another session's later
		}
	}
	tunnel, isTunnel := s.holder.(*relay.Tunnel)
	s.mu.Unlock()
	if isTunnel && !before {
		tunnel.End(cmp.Or(why, context.Canceled))
	}
}

// heldBy says whether a reactor still serves the session so.
func (s *scope) heldBy(r ringer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.holder == any(r)
}

// isEnded says whether a reactor's session has to end.
func (s *scope) isEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why != nil
}

// handTo gives the session's end and its two conns to a tunnel. The session does
// not keep them: when the tunnel lasts, it closes them and frees their memory. Nor
// does it keep the snapshot, which it needs no more: rules may be many megabytes, and
// with a reload an hour a tunnel of each would keep each generation of them.
func (s *session) handTo(t *relay.Tunnel) {
	s.scope.handTo(t)
	s.scope.mu.Lock()
	defer s.scope.mu.Unlock()
	s.socket, s.conn, s.server, s.raw = nil, nil, nil, rawEnds{}
	s.policy = nil
}

// control makes the session a dialedSocket.
func (s *session) control(f func(fd uintptr)) error {
	s.scope.mu.Lock()
	server := s.server
	tunnel, isTunnel := s.scope.holder.(*relay.Tunnel)
	if !isTunnel && server == nil {
		defer s.scope.mu.Unlock() // or it could be closed meanwhile
		return s.raw.server.control(f)
	}
	s.scope.mu.Unlock()
	if isTunnel {
		return tunnel.ControlServer(f)
	}
	return dialedConn{server}.control(f)
}

// inner is the context of before the relay, or nil.
func (s *scope) inner() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	if shaking, ok := s.holder.(*shakingScope); ok {
		return shaking.ctx
	}
	return nil
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
	if s.why != nil {
		return endedScope{s.why}
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
		s.scope.end(why) // not by its context: one that was let in just now has none yet
	}
}
