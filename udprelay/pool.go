package udprelay

import (
	"context"
	"sync"

	"cleversocks/conn/wire"
)

const (
	// slots is how many reads a batch holds; with UDP_GRO each may be several
	// datagrams.
	slots = 32
	// slotSize fits the largest datagram, and whatever the kernel joins.
	slotSize = 1 << 16
	// maxDatagram4 is the largest payload of UDP over IPv4.
	maxDatagram4 = 65507
	// ReceiveBuffer is asked for each socket, so that a burst of many small
	// datagrams, or some of 64 KiB, waits rather than drops.
	ReceiveBuffer = 512 << 10
)

// pool is a bounded stack of batches: at most max exist, and the one used
// last, whose memory is in the cache, is used next. Pumps hold a batch only
// while they have something to do, so a few serve any number of associations.
type pool struct {
	tokens chan struct{}
	mu     sync.Mutex
	free   []*batch
}

func newPool(most int) *pool {
	return &pool{tokens: make(chan struct{}, most)}
}

// get waits for a batch; nil once ctx has ended.
func (p *pool) get(ctx context.Context) *batch {
	select {
	case p.tokens <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		b := p.free[n-1]
		p.free = p.free[:n-1]
		return b
	}
	return newBatch()
}

// put gives a batch back.
func (p *pool) put(b *batch) {
	p.mu.Lock()
	p.free = append(p.free, b)
	p.mu.Unlock()
	<-p.tokens
}

// headerArena is where the headers of a flush are built, one after the other,
// so that queued datagrams can refer to them.
type headerArena struct {
	buf [4096]byte
	n   int
}

// room is where the next header may be appended; nil when a flush must come
// first.
func (h *headerArena) room() []byte {
	if len(h.buf)-h.n < wire.MaxUDPHeader {
		return nil
	}
	return h.buf[h.n:h.n:len(h.buf)]
}

func (h *headerArena) took(n int) { h.n += n }

func (h *headerArena) reset() { h.n = 0 }
