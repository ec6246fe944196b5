package e2e

import (
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"
)

// How much passes beyond a quota that many tunnels at two replicas use up at once, as
// fast as they can: no more than a replica may move before it hears of the other, an
// eighth of what is left. Each spent all that was left within the half second until it
// did, and a third too much was seen.
func TestFleetQuotaInBytes(t *testing.T) {
	const quota, replicas, tunnels = 4 << 20, 2, 16
	s := startStore(t, true)
	all := make([]*replica, replicas)
	for i := range all {
		all[i] = startReplica(t, s.address, string(rune('a'+i)), `
[auth]
allow_plain_passwords = true
[[user]]
name = "bob"
password = "secret"
quota = { bytes = "4MiB", period = "1h" }
`, patient)
	}
	for _, r := range all {
		eventually(t, "all know each other", func() bool { return r.metric("cleversocks_shared_replicas") == "2" })
	}
	sink := tcpServer(t, "127.0.0.1:0", func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	var open []net.Conn
	for i := range tunnels {
		open = append(open, mustTunnel(t, all[i%replicas].daemon, "127.0.0.1", "bob", sink))
	}
	var writers sync.WaitGroup
	for _, c := range open {
		writers.Go(func() {
			_ = c.SetDeadline(time.Now().Add(patience))
			for chunk := make([]byte, 16<<10); ; {
				if _, err := c.Write(chunk); err != nil {
					if isTimeout(err) {
						t.Error("the quota does not end a tunnel")
					}
					return
				}
			}
		})
	}
	writers.Wait()
	var last int64
	for _, r := range all {
		eventually(t, "all tunnels have ended", func() bool { return r.metric(`cleversocks_relay_end_total{cause="quota"}`) == "8" })
		moved, err := strconv.ParseInt(r.metric(`cleversocks_relay_bytes_total{direction="in"}`), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		last += moved
	}
	t.Logf("%d bytes beyond a quota of %d: %.0f %%", last-quota, quota, 100*float64(last-quota)/quota)
	if last < quota || last > quota+quota/8+replicas*(32<<10) {
		t.Errorf("%d bytes of a quota of %d", last, quota)
	}
	for _, r := range all {
		eventually(t, "nobody has any left", func() bool { return quotaLeft(r, "bob") == 0 })
	}
}
