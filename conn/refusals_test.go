package conn

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cleversocks/metrics"
)

// A flood of refused connections leaves the first of each source and reason and
// then a count a minute; sources without end are counted together.
func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
				return slog.Attr{}
			}
			return a
		}}))
		a := NewAccessLog(log, metrics.New())
		a.Watch(func(r *Record) { t.Errorf("a watcher is told of %v", r) }, func() bool { return true })
		done := make(chan error)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { done <- a.Serve(ctx) }()
		for port := range 100 {
			a.refused(netip.AddrPortFrom(netip.MustParseAddr("192.0.2.7"), uint16(port+1)), "main", "rate")
		}
		a.refused(netip.MustParseAddrPort("[2001:db8::1]:9"), "main", "banned")
		a.refused(netip.MustParseAddrPort("[2001:db8::2]:9"), "main", "banned") // the same /64
		synctest.Wait()
		want := `msg="connection refused" listener=main client=192.0.2.7:1 client_ip=192.0.2.7 client_port=1 cause=refused reason=rate
msg="connection refused" listener=main client=[2001:db8::1]:9 client_ip=2001:db8::1 client_port=9 cause=refused reason=banned
`
		if out.String() != want {
			t.Errorf("at once: %s", out.String())
		}
		out.Reset()
		time.Sleep(refusalInterval + time.Second)
		synctest.Wait()
		for _, line := range []string{
			`msg="connections refused" listener=main source=192.0.2.7/32 cause=refused reason=rate count=99`,
			`msg="connections refused" listener=main source=2001:db8::/64 cause=refused reason=banned count=1`,
		} {
			if !strings.Contains(out.String(), line+"\n") {
				t.Errorf("after a minute: %s", out.String())
			}
		}
		out.Reset()
		time.Sleep(2 * refusalInterval) // nothing more, and all are forgotten
		synctest.Wait()
		if out.Len() > 0 || len(a.refusals.seen) > 0 {
			t.Errorf("later: %s, %d", out.String(), len(a.refusals.seen))
		}
		for i := range 3 * refusalSources {
			a.refusals.note(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 1), "main", "limit")
		}
		if n := len(a.refusals.seen); n > refusalSources+1 {
			t.Errorf("%d are told apart", n)
		}
		cancel()
		<-done
		if want := fmt.Sprintf("source=others cause=refused reason=limit count=%d\n", 2*refusalSources); !strings.Contains(out.String(), want) {
			t.Errorf("at the end: %s", out.String())
		}
	})
}
