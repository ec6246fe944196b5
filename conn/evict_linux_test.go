package conn

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"cleversocks/metrics"
)

// Several sources crowd where there is room for few: some clients are silent, some
// leave, some go through. Each that gives way is counted until it has ended, and
// nothing is left of any of them.
func TestCrowdsGiveWay(t *testing.T) {
	g, m := reactingGroup(t)
	g.SetLimit(16)
	to, l := sinkServer(t), listen(t)
	acceptFrom(t, t.Context(), nil, g, l)
	evicted := m.Listener.Refused.Of(metrics.RefusedSilent)
	late := time.Now().Add(patience)
	var all sync.WaitGroup
	for i := range 32 {
		all.Go(func() {
			from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i%3+1))}}
			for n := 0; evicted.Get() < 20 && time.Now().Before(late); n++ {
				c, err := from.DialContext(t.Context(), "tcp", l.Addr().String())
				if err != nil {
					continue // there was no room
				}
				switch n % 4 {
				case 0, 1: // it is evicted, or leaves
					_ = c.SetDeadline(time.Now().Add(50 * time.Millisecond))
					_, _ = c.Read(make([]byte, 1))
				case 2:
					_ = c.SetDeadline(time.Now().Add(patience))
					_, _ = io.WriteString(c, sessions(to)["socks5"][0])
					_, _ = io.ReadFull(c, make([]byte, 12))
				}
				c.Close()
			}
		})
	}
	all.Wait()
	if n := evicted.Get(); n < 20 {
		t.Errorf("%d gave way", n)
	}
	awaitIdle(t, g)
	h := &g.handler.handshakes
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.leaving != 0 || len(h.sources) != 0 || h.most != nil {
		t.Errorf("%d leave, %d sources are left", h.leaving, len(h.sources))
	}
}
