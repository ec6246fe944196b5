package udprelay

import (
	"net/netip"
	"testing"

	"cleversocks/conn/wire"
)

// Destinations are told apart up to a bound, whoever sends to more: what goes
// to the others is one sum, and nothing is lost of it. One that is idle gives
// its place.
func TestFlowsAreBounded(t *testing.T) {
	var told []*Flow
	f := flows{tell: func(one *Flow) { told = append(told, one) }, idle: 100}
	at := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 53)
	}
	send := func(i int, now int64) {
		var r run
		r.add(f.to(wire.FromAddrPort(at(i)), at(i), now), FromClient, 10, now)
		r.settle(FromClient, now)
	}
	for i := range maxFlows + 20 {
		send(i, 1)
		send(i, 2)
	}
	if len(f.known) != maxFlows || len(told) != 0 {
		t.Fatalf("%d known, %d told", len(f.known), len(told))
	}
	send(200, 150) // all are idle by now
	if len(told) != maxFlows || len(f.known) != 1 {
		t.Fatalf("%d known, %d told", len(f.known), len(told))
	}
	for _, one := range told {
		if one.Others || one.Bytes[FromClient] != 20 || one.Datagrams != [2]int64{2, 0} || one.Duration != 1 {
			t.Fatalf("%+v", one)
		}
	}
	told = nil
	f.end()
	var others *Flow
	for _, one := range told {
		if one.Others {
			others = one
		}
	}
	if len(told) != 2 || others == nil || others.Bytes[FromClient] != 400 || others.Datagrams[FromClient] != 40 {
		t.Errorf("at the end: %+v", others)
	}
}

// Nobody is told of a destination that nothing went to, and without anybody to
// tell nothing is kept.
func TestFlowsOfNobody(t *testing.T) {
	var f flows
	if f.to(wire.Addr{Name: "a.test", Port: 1}, netip.AddrPort{}, 1) != nil || f.from(netip.MustParseAddrPort("192.0.2.1:1"), true, 1) != nil || f.known != nil {
		t.Error("something is kept")
	}
	f.rested(10)
	f.end()
	f = flows{tell: func(one *Flow) { t.Errorf("told %+v", one) }, idle: 1}
	f.to(wire.Addr{Name: "a.test", Port: 1}, netip.AddrPort{}, 1)
	f.end()
}
