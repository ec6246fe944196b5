package conn

import (
	"bytes"
	"context"
	"net/netip"
	"testing"
	"time"

	"cleversocks/conn/dial"
	"cleversocks/resolver"
)

// A client that sent all it had with its request, and shut its side down,
// was taken for one that had left when the dial took longer than watchAfter.
func TestClientThatSentAheadHasNotLeft(t *testing.T) {
	g, m := newTestGroup(t, true)
	to := sinkServer(t)
	policy := *g.Policy()
	policy.Dialer = dial.New(dial.Options{
		Lookup: func(ctx context.Context, _ string, family resolver.Family) ([]netip.Addr, error) {
			if family == resolver.IPv6 {
				return nil, resolver.ErrNotFound
			}
			slow := time.NewTimer(5 * watchAfter)
			defer slow.Stop()
			select {
			case <-slow.C:
				return []netip.Addr{to.Addr()}, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
		ConnectTimeout: patience, Metrics: m.Dial,
	})
	g.SetPolicy(&policy)
	request := []byte{4, 1, byte(to.Port() >> 8), byte(to.Port()), 0, 0, 0, 1, 0, 's', 'l', 'o', 'w', 0}
	got := talk(t, g, append(request, "all of it"...))
	if len(got) < 8 || got[1] != 90 || !bytes.Equal(got[8:], []byte("got:all of it")) {
		t.Errorf("answer %q", got)
	}
}
