package conn

import (
	"log/slog"
	"testing"
	"time"

	"cleversocks/authsvc"
	"cleversocks/metrics"
)

// While nobody knows what is left of quotas, and the settings want nobody let in then
// who has one, users without a quota come as before: all were refused, since there is a
// count for each of them.
func TestUnsureOfQuotas(t *testing.T) {
	limited, free := account("alice"), account("alice")
	limited.QuotaBytes, limited.QuotaPeriod = 100, time.Hour
	for name, tt := range map[string]struct {
		user    authsvc.UserEntry
		refused uint64
	}{"with a quota": {limited, 1}, "without": {free, 0}} {
		t.Run(name, func(t *testing.T) {
			g, m := newTestGroup(t, true)
			policy := *g.Policy()
			policy.Auth = newPolicy(t, authsvc.AdmissionOptions{Required: true}, []authsvc.UserEntry{tt.user}).Auth
			g.SetPolicy(&policy)
			g.handler.guards.Unsure = func() bool { return true }
			records := NewAccessLog(slog.New(slog.DiscardHandler), m)
			g.recordIn(records)
			talkOn(t, g, []byte("GET http://127.0.0.1:9/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic YWxpY2U6eA==\r\nConnection: close\r\n\r\n"))
			await(t, records)
			if n := m.Conn.Refused.Of(metrics.RefusedUnknown).Get(); n != tt.refused {
				t.Errorf("%d refused, want %d", n, tt.refused)
			}
		})
	}
}
