package udprelay

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cleversocks/conn/wire"
)

// An association kept 1.1 MiB after it had sent to 2,100 addresses and 600
// names. It keeps at most 128 KiB, stacks included.
func TestAssociationsMemoryIsBounded(t *testing.T) {
	const associations, most = 12, 128 << 10 // many, so that what else lives hardly counts
	r := New(RelayOptions{})
	at := echo(t, loopback4)
	var batches []*batch // which all associations share
	for range cap(r.pool.tokens) {
		batches = append(batches, r.pool.get(t.Context()))
	}
	for _, b := range batches {
		r.pool.put(b)
	}
	var all []*harness
	for range associations {
		all = append(all, associate(t, r, func(s *Request) {
			s.Resolve = func(context.Context, wire.Addr) ([]netip.Addr, error) {
				ips := make([]netip.Addr, 30)
				for i := range ips {
					ips[i] = loopback4
				}
				return ips, nil
			}
		}))
	}
	before := memoryInUse()
	for _, h := range all {
		for i := range 2100 {
			ip := netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)})
			h.send(t, wrap(t, wire.Addr{IP: ip, Port: at.Port()}, []byte("x")))
			if i%100 == 0 {
				h.roundTrip(t, to(at), at, "keeps pace")
			}
		}
		for i := range 600 {
			name := fmt.Sprintf("%d.%sexample", i, strings.Repeat(strings.Repeat("n", 60)+".", 3))
			h.roundTrip(t, wire.Addr{Name: name, Port: at.Port()}, at, strings.Repeat("x", 1200))
		}
	}
	var kept int64
	eventually(t, fmt.Sprintf("an association keeps at most %d bytes", most), func() bool { // what is under way still counts
		kept = (memoryInUse() - before) / associations
		return kept <= most
	})
	t.Logf("%d KiB an association", kept>>10)
	for _, h := range all {
		h.end(t)
	}
}

// memoryInUse is what is reachable, and stacks.
func memoryInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what the first one's finalizers let go
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// 55 associations with names that no server answers for took all descriptors
// of the daemon. One user's look-ups are few, and leave others' alone.
func TestSilentNamesTakeLittle(t *testing.T) {
	var under, most atomic.Int64
	silent := func(s *Request) {
		s.Resolve = func(ctx context.Context, _ wire.Addr) ([]netip.Addr, error) {
			n := under.Add(1)
			for was := most.Load(); n > was && !most.CompareAndSwap(was, n); was = most.Load() {
			}
			<-ctx.Done()
			under.Add(-1)
			return nil, ctx.Err()
		}
	}
	r := New(RelayOptions{})
	at := echo(t, loopback4)
	var all []*harness
	for range 10 {
		h := associate(t, r, silent)
		for i := range 20 {
			h.send(t, wrap(t, wire.Addr{Name: fmt.Sprintf("n%d.example", i), Port: 53}, []byte("x")))
		}
		h.roundTrip(t, to(at), at, "served all the same")
		all = append(all, h)
	}
	other := associate(t, r, func(s *Request) {
		s.Identity.User = "bob"
		s.Resolve = func(context.Context, wire.Addr) ([]netip.Addr, error) { return []netip.Addr{loopback4}, nil }
	})
	other.roundTrip(t, wire.Addr{Name: "a.example", Port: at.Port()}, at, "another user's name")
	other.end(t)
	if n := most.Load(); n > seatLookups {
		t.Errorf("%d look-ups at once, want at most %d", n, seatLookups)
	}
	for _, h := range all {
		h.end(t)
	}
	if n := under.Load(); n != 0 {
		t.Errorf("%d look-ups are left", n)
	}
}

// Associations that flood, one for each batch there is and more, do not starve
// another: its datagrams go round all the time.
func TestFloodsStarveNobody(t *testing.T) {
	r := New(RelayOptions{})
	at, sink := echo(t, loopback4), listenUDP(t, loopback4)
	flood := wrap(t, to(portOf(sink)), make([]byte, 1200))
	stop := make(chan struct{})
	var floods sync.WaitGroup
	var flooders []*harness
	for range cap(r.pool.tokens) + 2 {
		h := associate(t, r, func(s *Request) { s.Identity.User = "mallory" })
		flooders = append(flooders, h)
		floods.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_, _ = h.udp.WriteToUDPAddrPort(flood, h.bound)
				}
			}
		})
	}
	quiet := associate(t, r, nil)
	const trips = 50
	for i := range trips {
		quiet.trip(t, at, uint32(i))
	}
	close(stop)
	floods.Wait()
	res := quiet.end(t)
	if res.DatagramsIn != trips || res.DatagramsOut != trips {
		t.Errorf("datagrams were lost: %+v", res)
	}
	for _, h := range flooders {
		if res := h.end(t); res.DatagramsIn == 0 {
			t.Error("a flood moved nothing")
		}
	}
}

// trip is a round trip of a number, which must come back within patience.
func (h *harness) trip(t *testing.T, at netip.AddrPort, n uint32) {
	t.Helper()
	h.send(t, wrap(t, to(at), binary.BigEndian.AppendUint32(nil, n)))
	_ = h.udp.SetReadDeadline(time.Now().Add(20 * time.Second))
	buf := make([]byte, 64)
	got, err := h.udp.Read(buf)
	if err != nil {
		t.Fatalf("trip %d: %v", n, err)
	}
	if back := binary.BigEndian.Uint32(buf[got-4:]); back != n {
		t.Fatalf("trip %d came back as %d", n, back)
	}
}
