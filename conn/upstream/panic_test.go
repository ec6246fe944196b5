package upstream

import (
	"context"
	"sync/atomic"
	"testing"

	"cleversocks/e2e/need"
)

// A defect under one member's probe ended the daemon. It restarts that member,
// and the others go on.
func TestMemberPanics(t *testing.T) {
	var probes atomic.Int64
	r := compile(t, options(Upstream{Members: []string{"socks5://" + need.Refusing(t).String(), "socks5://" + need.Refusing(t).String()}}))
	pool := r.Pools()[0]
	for i, m := range pool.members {
		m.open = func(context.Context, chain, []byte) (*prepared, *Error) {
			if i == 0 {
				panic("a defect")
			}
			probes.Add(1)
			return nil, &Error{Stage: "dial", HopFault: true, Err: ErrRefused}
		}
	}
	defer run(t, r)()
	eventually(t, "the other member is probed until it is out", func() bool { return !pool.members[1].isUp() })
}
