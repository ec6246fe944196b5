package shared

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/redis/rueidis"
)

// A ban whose call had failed was told again after its end, which came later and was
// told at once: the source was banned on all replicas. So it was with log-ins by turns
// from one address, of which the fleet believed an earlier one.
func TestFailedCallsKeepTheirOrder(t *testing.T) {
	_, url := fake(t)
	r := joinAll(t, url, 1)[0]
	var mu sync.Mutex
	var made []string
	call := func(source netip.Addr, name string, fails int) {
		r.do(job{source, "once", true, func(context.Context, rueidis.Client) error {
			mu.Lock()
			defer mu.Unlock()
			made = append(made, name)
			if fails--; fails >= 0 {
				return errors.New("not now")
			}
			return nil
		}})
	}
	other := netip.MustParseAddr("192.0.2.99")
	call(home, "ban", 2)
	call(home, "end", 0)
	call(other, "other", 0)
	call(home, "ban again", 0)
	eventually(t, "all are made", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Contains(made, "ban again") && slices.Contains(made, "other")
	})
	mu.Lock()
	defer mu.Unlock()
	made = slices.DeleteFunc(made, func(name string) bool { return name == "other" }) // waits for none of these
	if want := []string{"ban", "ban", "ban", "end", "ban again"}; !slices.Equal(made, want) {
		t.Errorf("made %q, want %q", made, want)
	}
}
