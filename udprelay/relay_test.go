package udprelay

import (
	"net/netip"
	"strings"
	"testing"

	"cleversocks/conn/wire"
	"cleversocks/metrics"
)

var (
	loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback6 = netip.IPv6Loopback()
)

func TestRoundTrips(t *testing.T) {
	r := New(Options{})
	h := associate(t, r, nil)
	if h.code != wire.ReplySucceeded || h.bound.Addr() != loopback4 || h.bound.Port() == 0 {
		t.Fatalf("reply %v, bound %v", h.code, h.bound)
	}
	at4, at6 := echo(t, loopback4), echo(t, loopback6)
	h.roundTrip(t, to(at4), at4, "four")
	h.roundTrip(t, to(at6), at6, "six")
	h.roundTrip(t, to(at4), at4, "")
	h.roundTrip(t, to(at4), at4, strings.Repeat("x", 65507-10))
	h.roundTrip(t, to(at4), at4, "after a large one")
	res := h.end(t)
	if res.Cause != metrics.CauseClientClosed || res.DatagramsIn != 5 || res.DatagramsOut != 5 || res.BytesIn != res.BytesOut {
		t.Errorf("%+v", res)
	}
}
