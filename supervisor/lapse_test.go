package supervisor

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cleversocks/authsvc"
	"cleversocks/metrics"
)

// A session ended at the user's valid_until and not at the next log-in, and a
// user who is disabled by a reload goes at once.
func TestLapsesLookAtEachBoundary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		entry := authsvc.UserEntry{Account: authsvc.Account{Name: "alice", Validity: authsvc.Validity{Until: begin.Add(90 * time.Second)}}}
		users, err := authsvc.NewUsers(authsvc.UsersOptions{Users: []authsvc.UserEntry{entry}, Metrics: &metrics.New().Auth})
		if err != nil {
			t.Fatal(err)
		}
		var inForce atomic.Pointer[authsvc.Users]
		inForce.Store(users)
		var looks []time.Duration
		l := newLapses(slog.New(slog.DiscardHandler), &inForce, func() int { looks = append(looks, time.Since(begin)); return 0 })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Serve(ctx) }()
		time.Sleep(2 * time.Minute) //nolint:forbidigo // the clock of the bubble
		synctest.Wait()
		l.reconsider()
		synctest.Wait()
		cancel()
		<-done
		want := map[time.Duration]bool{0: false, 90 * time.Second: false, 2 * time.Minute: false}
		for _, at := range looks {
			want[at] = true
		}
		for at, seen := range want {
			if !seen {
				t.Errorf("nobody looked at %v: %v", at, looks)
			}
		}
	})
}
