package shortage

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cleversocks/e2e/written"
)

// A full proxy reset everybody without a line at any level. It says so at once,
// and once a minute, not for each client that it turns away.
func TestOnceAMinuteWithACount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out written.Text // synctest orders reads and writes in time, which the race detector does not see
		var refused atomic.Uint64
		w := New(slog.New(slog.NewTextHandler(&out, nil)), []Limit{
			{Name: "limits.max_connections", Effect: "reset", Count: refused.Load, Figure: func() int64 { return 7 }},
			{Name: "quiet", Count: func() uint64 { return 0 }},
		})
		ctx, cancel := context.WithCancel(t.Context())
		go w.Serve(ctx)
		said := func() int { synctest.Wait(); return strings.Count(out.String(), "limit reached") }

		refused.Store(3)
		time.Sleep(1500 * time.Millisecond) //nolint:forbidigo // of a fake clock
		if n := said(); n != 1 || !strings.Contains(out.String(), "limit=limits.max_connections effect=reset times=3 figure=7") {
			t.Fatalf("said %d times:\n%s", n, out.String())
		}
		for range 50 {
			refused.Add(1)
			time.Sleep(time.Second) //nolint:forbidigo // of a fake clock
		}
		if n := said(); n != 1 {
			t.Errorf("said %d times within a minute", n)
		}
		time.Sleep(20 * time.Second) //nolint:forbidigo // of a fake clock
		if n := said(); n != 2 || !strings.Contains(out.String(), "times=50 ") {
			t.Errorf("said %d times after a minute:\n%s", n, out.String())
		}
		time.Sleep(time.Hour) //nolint:forbidigo // of a fake clock
		if n := said(); n != 2 {
			t.Errorf("said %d times, though nobody met it any more", n)
		}
		cancel()
		synctest.Wait()
	})
}
