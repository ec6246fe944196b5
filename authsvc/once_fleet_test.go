package authsvc

import (
	"context"
	"net/netip"
	"testing"
	"time"
)

// slowFleet answers with an entry, and something happens before the answer arrives.
type slowFleet struct {
	entry     []byte
	meanwhile func()
}

func (f *slowFleet) Added(netip.Addr, func() []byte, time.Duration) {}
func (f *slowFleet) Revoked(netip.Addr, time.Duration)              {}
func (f *slowFleet) Ask(context.Context, netip.Addr) []byte         { f.meanwhile(); return f.entry }

// An address was revoked after the store had told of it, and before the answer was
// taken in: it was let in again, for as long as auth-once lasts.
func TestAnswerIsOlderThanARevocation(t *testing.T) {
	addr, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	options := OnceOptions{Max: 10, TTL: time.Hour}
	elsewhere, _ := newOnce(options, "")
	elsewhere.Add(addr, Identity{User: "u", Method: MethodPassword})
	var entry []byte
	elsewhere.Encoded(func(_ netip.Addr, e []byte, _ time.Duration) { entry = e })
	for _, tt := range []struct {
		name      string
		meanwhile func(*Once)
		known     bool
	}{
		{"nothing happens", func(*Once) {}, true},
		{"it is revoked here", func(o *Once) { o.Revoke(addr) }, false},
		{"it is revoked elsewhere", func(o *Once) { o.Forget(addr) }, false},
		{"another is revoked", func(o *Once) { o.Revoke(other) }, true},
		{"somebody logs in again", func(o *Once) { o.Revoke(addr); o.Add(addr, Identity{User: "new", Method: MethodPassword}) }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			once, _ := newOnce(options, "")
			fleet := &slowFleet{entry: entry, meanwhile: func() { tt.meanwhile(once) }}
			once.Join(fleet)
			_, answered := once.LookupElsewhere(t.Context(), addr)
			if _, known := once.Lookup(addr); known != tt.known || answered != tt.known {
				t.Errorf("answered %v, known %v; want %v", answered, known, tt.known)
			}
			if len(once.inquiries) > 0 {
				t.Errorf("%d inquiries are left", len(once.inquiries))
			}
			fleet.meanwhile = func() {}
			if _, known := once.LookupElsewhere(t.Context(), addr); !known {
				t.Error("an answer from after the revocation is not taken")
			}
		})
	}
}
