package udprelay

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"cleversocks/conn/wire"
)

// maxFlows bounds the destinations of one association that are told apart at a time. What
// goes to and comes from others is one sum.
const maxFlows = 64

// Flow is what an association has moved to and from one destination, told when
// the association ends, or when nothing was moved for the idle timeout.
type Flow struct {
	Dest     wire.Addr      // as it was asked for, the first time
	At       netip.AddrPort // where that is; invalid where an upstream resolves
	Others   bool           // the sum of those beyond maxFlows; no Dest then
	Duration time.Duration  // from the first datagram to the last
	// By Direction.
	Bytes, Datagrams [2]int64
}

// flow counts one destination's.
type flow struct {
	dest             wire.Addr
	at               netip.AddrPort
	began            int64
	last             atomic.Int64
	bytes, datagrams [2]atomic.Int64
}

// flows are those of an association. Without tell nothing is counted.
type flows struct {
	tell func(*Flow)
	idle int64 // nanoseconds

	mu    sync.Mutex
	known map[wire.Addr]*flow // by address and port, or by name where an upstream resolves
	rest  *flow
	swept int64
}

// to is the flow of a destination; nil when nobody wants to know. at is invalid
// where an upstream resolves.
func (f *flows) to(dest wire.Addr, at netip.AddrPort, now int64) *flow {
	if f.tell == nil {
		return nil
	}
	key := dest
	key.Absolute = false
	if at.IsValid() {
		key = wire.FromAddrPort(at)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if known := f.known[key]; known != nil {
		return known
	}
	if len(f.known) >= maxFlows && now-f.swept >= f.idle/4 {
		f.sweep(now)
	}
	if len(f.known) >= maxFlows {
		return f.other(now)
	}
	if f.known == nil {
		f.known = make(map[wire.Addr]*flow)
	}
	made := &flow{dest: dest, at: at, began: now}
	made.last.Store(now)
	f.known[key] = made
	return made
}

// from is the flow of a sender. One that was never sent to has a flow if there
// is room. Behind an upstream, a destination that was asked for by name answers from an
// address that is not known to be its: that is counted among the others.
func (f *flows) from(at netip.AddrPort, upstream bool, now int64) *flow {
	if f.tell == nil {
		return nil
	}
	dest := wire.FromAddrPort(at)
	if !upstream {
		return f.to(dest, at, now)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if known := f.known[dest]; known != nil {
		return known
	}
	return f.other(now)
}

// other is the sum of those that are not told apart. The caller holds mu.
func (f *flows) other(now int64) *flow {
	if f.rest == nil {
		f.rest = &flow{began: now}
		f.rest.last.Store(now)
	}
	return f.rest
}

// rested tells of flows that are idle, and forgets them.
func (f *flows) rested(now int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sweep(now)
}

func (f *flows) sweep(now int64) {
	f.swept = now
	for key, one := range f.known {
		if now-one.last.Load() >= f.idle {
			delete(f.known, key)
			f.report(one)
		}
	}
}

// end tells of all. Nothing is counted any more.
func (f *flows) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, one := range f.known {
		f.report(one)
	}
	f.known = nil
	if f.rest != nil {
		f.report(f.rest)
	}
}

func (f *flows) report(one *flow) {
	out := &Flow{
		Dest: one.dest, At: one.at, Others: one == f.rest,
		Duration: time.Duration(one.last.Load() - one.began),
	}
	for d := range out.Bytes {
		out.Bytes[d], out.Datagrams[d] = one.bytes[d].Load(), one.datagrams[d].Load()
	}
	if out.Datagrams != [2]int64{} {
		f.tell(out)
	}
}

// run is the datagrams of one flow in a row, counted at once.
type run struct {
	flow             *flow
	bytes, datagrams int64
}

// add counts a datagram; nil: it is nobody's.
func (r *run) add(of *flow, d Direction, bytes int, now int64) {
	if of != r.flow {
		r.settle(d, now)
		r.flow = of
	}
	r.bytes += int64(bytes)
	r.datagrams++
}

// settle adds what was counted to its flow.
func (r *run) settle(d Direction, now int64) {
	if r.flow != nil && r.datagrams > 0 {
		r.flow.bytes[d].Add(r.bytes)
		r.flow.datagrams[d].Add(r.datagrams)
		r.flow.last.Store(now)
	}
	*r = run{}
}
