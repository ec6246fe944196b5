package udprelay

import (
	"bytes"
	"sync"
	"sync/atomic"
	"time"

	"cleversocks/metrics"
)

const (
	// fragmentTimeout is the reassembly timer: "no less than 5 seconds" (RFC
	// 1928 §7).
	fragmentTimeout = 5 * time.Second
	// fragmentMemory bounds what all associations keep of unfinished
	// sequences.
	fragmentMemory = 4 << 20

	lastFragment = 0x80 // the end of a sequence
)

// reassembler is the reassembly queue and timer of one association (RFC 1928
// §7). It holds one sequence; the zero value with a budget is ready.
//
// A sequence starts at position 1 and grows by one. A repetition of the last
// fragment is dropped; anything else out of order, another destination, too
// many bytes or the timer abandons the whole sequence: a part is never passed
// on as if it were the whole.
type reassembler struct {
	budget *atomic.Int64    // bytes left for all associations
	full   *metrics.Counter // how often there were none

	mu      sync.Mutex
	header  []byte // ATYP, address and port of the first fragment
	data    []byte
	highest byte // 0: no sequence
	timer   *time.Timer
	started uint64 // which sequence the timer is about
}

// add takes one fragment: its number, the bytes of its destination and its
// payload, all of which it copies. It returns the datagram when this fragment
// completes it; the caller owns the bytes.
func (r *reassembler) add(frag byte, header, payload []byte) (whole []byte, done bool) {
	position, last := frag&^lastFragment, frag&lastFragment != 0
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case position == 0:
		return nil, false // the end of nothing
	case position == 1:
		r.abandon() // a new sequence; what came of the last one is lost
		if !r.start(header) {
			return nil, false
		}
	case r.highest == 0:
		return nil, false // its beginning never came
	case position == r.highest:
		return nil, false // the network repeated it
	case position != r.highest+1 || !bytes.Equal(header, r.header):
		r.abandon()
		return nil, false
	}
	if len(r.data)+len(payload) > maxDatagram4 || !r.take(len(payload)) {
		r.abandon()
		return nil, false
	}
	r.data = append(r.data, payload...)
	r.highest = position
	if !last {
		return nil, false
	}
	whole = r.data
	r.abandon()
	return whole, true
}

func (r *reassembler) start(header []byte) bool {
	if !r.take(len(header)) {
		return false
	}
	r.header = bytes.Clone(header)
	r.started++
	sequence := r.started
	r.timer = time.AfterFunc(fragmentTimeout, func() { r.expire(sequence) })
	return true
}

// take reserves n bytes of the budget.
func (r *reassembler) take(n int) bool {
	if r.budget.Add(-int64(n)) < 0 {
		r.budget.Add(int64(n))
		r.full.Inc()
		return false
	}
	return true
}

// expire is the reassembly timer.
func (r *reassembler) expire(sequence uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if sequence == r.started {
		r.abandon()
	}
}

// abandon reinitialises the queue. The caller holds mu.
func (r *reassembler) abandon() {
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	r.budget.Add(int64(len(r.header) + len(r.data)))
	r.header, r.data, r.highest = nil, nil, 0
}

// close gives up what is queued and stops the timer.
func (r *reassembler) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.abandon()
}
