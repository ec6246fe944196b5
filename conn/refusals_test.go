package conn

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cleversocks/e2e/written"
	"cleversocks/metrics"
)

// whoCalls is a connection that has an address and nothing else.
type whoCalls struct{ address string }

func (whoCalls) Close() error              { return nil }
func (whoCalls) Read([]byte) (int, error)  { return 0, net.ErrClosed }
func (whoCalls) Write([]byte) (int, error) { return 0, net.ErrClosed }
func (whoCalls) LocalAddr() net.Addr       { return nil }
func (w whoCalls) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(w.address))
}
func (whoCalls) SetDeadline(time.Time) error      { return nil }
func (whoCalls) SetReadDeadline(time.Time) error  { return nil }
func (whoCalls) SetWriteDeadline(time.Time) error { return nil }

// A flood of refused connections leaves the first of each source and reason and
// then a count a minute; sources without end are counted together.
func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out written.Text
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
			a.refused(&session{client: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.7"), uint16(port+1)), listener: "main"}, "rate")
		}
		a.refused(&session{client: netip.MustParseAddrPort("[2001:db8::1]:9"), listener: "main"}, "banned")
		a.refused(&session{client: netip.MustParseAddrPort("[2001:db8::2]:9"), listener: "main"}, "banned") // the same /64
		(&Group{access: a}).TurnedAway(whoCalls{"198.51.100.1:5"}, "main", metrics.RefusedDescriptors)
		time.Sleep(gather) //nolint:forbidigo // of a fake clock
		synctest.Wait()
		want := `msg="connection refused" listener=main client=192.0.2.7:1 client_ip=192.0.2.7 client_port=1 cause=refused reason=rate
msg="connection refused" listener=main client=[2001:db8::1]:9 client_ip=2001:db8::1 client_port=9 cause=refused reason=banned
msg="connection refused" listener=main client=198.51.100.1:5 client_ip=198.51.100.1 client_port=5 cause=refused reason=descriptors
`
		if got := out.Take(); got != want {
			t.Errorf("at once: %s", got)
		}
		time.Sleep(refusalInterval + time.Second) //nolint:forbidigo // of a fake clock
		synctest.Wait()
		counted := out.Take()
		for _, line := range []string{
			`msg="connections refused" listener=main source=192.0.2.7/32 cause=refused reason=rate count=99`,
			`msg="connections refused" listener=main source=2001:db8::/64 cause=refused reason=banned count=1`,
		} {
			if !strings.Contains(counted, line+"\n") {
				t.Errorf("after a minute: %s", counted)
			}
		}
		time.Sleep(2 * refusalInterval) //nolint:forbidigo // of a fake clock; nothing more comes, and all are forgotten
		synctest.Wait()
		if n, got := toldApart(&a.refusals), out.Take(); got != "" || n > 0 {
			t.Errorf("later: %s, %d", got, n)
		}
		for i := range 3 * refusalSources {
			a.refusals.note(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), "main", "limit")
		}
		if n := toldApart(&a.refusals); n > refusalSources+1 {
			t.Errorf("%d are told apart", n)
		}
		cancel()
		<-done
		if want := fmt.Sprintf("source=others cause=refused reason=limit count=%d\n", 2*refusalSources); !strings.Contains(out.Take(), want) {
			t.Errorf("at the end there is no %q", want)
		}
	})
}

// toldApart is how many sources and reasons are known.
func toldApart(r *refusals) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}
