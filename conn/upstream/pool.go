package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/thejerf/suture/v4"

	"cleversocks/conn/wire"
)

// Pool is one upstream at work. It is a service: Serve keeps its members
// probed and their warm connections filled. Without Serve it still carries
// connections, cold ones.
type Pool struct {
	name     string
	plan     *plan
	rewarm   string        // Options.Rewarm, when it was made
	timeout  time.Duration // Options.ConnectTimeout, likewise
	local    bool
	strategy Strategy
	members  []*member          // never empty, never changed
	services *suture.Supervisor // of the members
	turn     atomic.Uint64
}

// Name is the upstream's name.
func (p *Pool) Name() string { return p.name }

// String names the service; it shows no member.
func (p *Pool) String() string { return "upstream " + p.name }

// Serve watches the members until ctx ends, then closes what is warm. Each is a
// service of its own: one that panics is restarted, and the others go on. It is
// called once.
func (p *Pool) Serve(ctx context.Context) error { return p.services.Serve(ctx) }

// GetSupervisor lets the tree that the pool is added to hear of its members.
func (p *Pool) GetSupervisor() *suture.Supervisor { return p.services }

// supervise makes the members services.
func (p *Pool) supervise() {
	p.services = suture.New(p.String(), suture.Spec{
		EventHook:        func(suture.Event) {}, // until there is a tree
		FailureThreshold: 20,
		FailureBackoff:   500 * time.Millisecond,
		Timeout:          5 * time.Second,
	})
	for _, m := range p.members {
		p.services.Add(m)
	}
}

// MemberStatus is what is known of a member, for a status page.
type MemberStatus struct {
	Member  string // without credentials
	Up      bool
	Drained bool // by Drain
	Active  int64
	Warm    int64
	Latency time.Duration // smoothed time of a handshake; 0 is unknown
}

// Status is what is known of the members, in their order.
func (p *Pool) Status() []MemberStatus {
	out := make([]MemberStatus, 0, len(p.members))
	for _, m := range p.members {
		out = append(out, MemberStatus{
			Member: m.label, Up: m.isUp(), Drained: m.isDrained(), Active: m.metrics.Active.Load(),
			Warm: m.metrics.Warm.Load(), Latency: m.latency(),
		})
	}
	return out
}

// Drain has no new tunnels go through a member, or has them go there again.
// Tunnels that are open stay. It outlives a reload and reports whether there is
// such a member.
func (p *Pool) Drain(label string, drained bool) bool {
	for _, m := range p.members {
		if m.label == label {
			m.mu.Lock()
			m.drained = drained
			m.mu.Unlock()
			return true
		}
	}
	return false
}

// maxTries bounds the members that one request tries.
const maxTries = 3

// ask asks the last hop of a prepared connection for what is wanted.
type ask func(ctx context.Context, p *prepared, hop Hop) *Error

// through finds a member that answers. On success the member counts one
// active tunnel more, which Info.Release takes back. A session is drawn to the
// same member each time; "": the strategy chooses.
func (p *Pool) through(ctx context.Context, by asker, want ask) (*prepared, Info, *Error) {
	var tried []*member
	var first *Error
	start := p.start()
	for range maxTries {
		m := p.pick(by.session, start, tried)
		if m == nil {
			break
		}
		got, warm, fail := m.reach(ctx, by.from, want)
		if fail == nil {
			m.metrics.Active.Add(1)
			release := sync.OnceFunc(func() { m.metrics.Active.Add(-1) })
			return got, Info{
				Upstream: p.name, Member: m.label, single: len(p.plan.upstream.Via) > 0,
				Local: got.local(), Warm: warm, release: release, member: m,
			}, nil
		}
		fail.Upstream = p.name
		if first == nil || !fail.HopFault {
			first = fail
		}
		if !fail.HopFault || ctx.Err() != nil {
			break
		}
		tried = append(tried, m)
	}
	if first == nil {
		first = &Error{Upstream: p.name, Hop: "no member", Stage: "dial", Code: wire.ReplyGeneralFailure, HopFault: true, Err: errDrained}
	}
	return nil, Info{}, first
}

// errDrained is an upstream none of whose members may take new tunnels.
var errDrained = errors.New("an operator has drained every member")

// connect reaches the first of dests that answers; they are one destination's
// addresses, or its name.
func (p *Pool) connect(ctx context.Context, by asker, dests []wire.Addr) (net.Conn, Info, error) {
	var first *Error
	for _, dest := range dests {
		var bound netip.AddrPort
		got, info, fail := p.through(ctx, by, func(ctx context.Context, p *prepared, hop Hop) (fail *Error) {
			bound, fail = request(ctx, p.conn, hop, dest)
			return fail
		})
		if fail == nil {
			info.member.granted()
			info.Bound, info.Dest = bound, dest
			return got.conn, info, nil
		}
		if first == nil {
			first = fail
		}
		if fail.HopFault || ctx.Err() != nil {
			break
		}
	}
	return nil, Info{}, first
}
