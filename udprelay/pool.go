package udprelay

import (
	"context"
	"slices"
	"sync"
	"time"

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
	// trimEvery is how often batches are looked at that nobody needed meanwhile.
	trimEvery = 10 * time.Second
)

// pool is a bounded stack of batches: at most max exist, and the one used
// last, whose memory is in the cache, is used next. Pumps hold a batch only
// while they have something to do, so a few serve any number of associations. One takes
// 2 MiB, and goes when there was no need for it for a while: once there was a burst, a
// host with many processors would keep hundreds of them.
type pool struct {
	tokens chan struct{}
	mu     sync.Mutex
	free   []*batch
	spare  int         // the least number of free ones since the last look
	trim   *time.Timer // the next look; nil: nothing is free
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
		p.spare = min(p.spare, n-1)
		return b
	}
	return newBatch()
}

// put gives a batch back.
func (p *pool) put(b *batch) {
	p.mu.Lock()
	p.free = append(p.free, b)
	p.trimLater()
	p.mu.Unlock()
	<-p.tokens
}

// trimLater has the free batches looked at. The caller holds the lock.
func (p *pool) trimLater() {
	if p.trim == nil && len(p.free) > 0 {
		p.spare = len(p.free)
		p.trim = time.AfterFunc(trimEvery, p.trimFree)
	}
}

// trimFree lets those go that nobody needed since the last look. They are the first
// ones: the last is taken first.
func (p *pool) trimFree() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = slices.Delete(p.free, 0, min(p.spare, len(p.free)))
	p.trim = nil
	p.trimLater()
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
