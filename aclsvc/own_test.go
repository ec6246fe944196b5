package aclsvc

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// pass lets time go by on synctest's clock.
func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // in a bubble nothing sleeps
}

func TestLocalsFollowTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var host atomic.Pointer[string] // its address; nil: the look fails
		set := func(addr string) { host.Store(&addr) }
		set("192.0.2.1")
		list := func() ([]netip.Prefix, error) {
			addr := host.Load()
			if addr == nil {
				return nil, errors.New("netlink")
			}
			ip := netip.MustParseAddr(*addr)
			return []netip.Prefix{netip.PrefixFrom(ip, ip.BitLen())}, nil
		}
		var told atomic.Int64
		l, err := NewLocals(LocalsOptions{
			Interval: time.Minute,
			List:     list,
			OnError:  func(error) { told.Add(1) },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Serve(ctx) }()
		is := func(addr string) bool { return l.Contains(netip.MustParseAddr(addr)) }
		if !is("192.0.2.1") || is("192.0.2.2") || !is("127.5.5.5") || !is("::1") || !is("0.0.0.0") {
			t.Error("the first look is wrong")
		}
		synctest.Wait()
		set("2001:db8::1")
		pass(time.Minute + 1)
		synctest.Wait()
		if is("192.0.2.1") || !is("2001:db8::1") {
			t.Error("a new address is not seen")
		}
		host.Store(nil)
		pass(time.Minute)
		synctest.Wait()
		if !is("2001:db8::1") || told.Load() != 1 {
			t.Errorf("an error loses the last snapshot; told %d times", told.Load())
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if _, err := NewLocals(LocalsOptions{List: list}); err == nil {
			t.Error("a first look that fails is no error")
		}
	})
}
