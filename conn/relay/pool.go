package relay

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// The defaults of PoolOptions.
const (
	// DefaultIdleBuffers keeps 4 MiB of buffers at most.
	DefaultIdleBuffers = 256
	// DefaultPipes stays under fs.pipe-user-pages-soft: past it, an
	// unprivileged user's pipes shrink to two pages.
	DefaultPipes = 192
)

// PoolOptions bounds what Pools keeps.
type PoolOptions struct {
	IdleBuffers int // free buffers kept; 0: DefaultIdleBuffers
	Reactors    int // goroutines that move the bytes of all relays; 0: one for two processors; below 0: each relay has its own two
	Pipes       int // pipes in existence, free or in use, each 2 descriptors and 256 KiB; 0: DefaultPipes; below 0: none
	// Full hears of each time that a relay wanted a pipe and copies instead; nil: nobody does.
	Full func()
}

// Pools holds what relays share: the free buffers and pipes, and on Linux the
// reactors that move their bytes, which whoever makes Pools runs. The lists are
// explicit and no sync.Pool: that one forgets pipes without closing them. A nil
// *Pools is valid and keeps nothing.
type Pools struct {
	o        PoolOptions
	reactors reactorSet
	clock    clock
	common   atomic.Pointer[common] // of the last relay

	bareAtOnce bool // tests do not wait for bareAfter

	mu      sync.Mutex
	buffers [][]byte
	pipes   pipeList
	closed  bool
}

// clockOf is the clock of the relays that share p; without Pools one has its own.
func (p *Pools) clockOf() *clock {
	if p == nil {
		return new(clock)
	}
	return &p.clock
}

// NewPools makes empty pools. Whoever makes them closes them, when the relays
// that use them have ended.
func NewPools(o PoolOptions) *Pools {
	if o.IdleBuffers == 0 {
		o.IdleBuffers = DefaultIdleBuffers
	}
	if o.Pipes == 0 {
		o.Pipes = DefaultPipes
	}
	if o.Reactors == 0 {
		// One that does not get a processor holds up all of its relays, and the
		// programs at the other end of them want processors too.
		o.Reactors = max(1, runtime.GOMAXPROCS(0)/2)
	}
	p := &Pools{o: o}
	p.openReactors(o.Reactors)
	return p
}

// Reactors are the services that relays with these pools depend on: while one
// does not run, its relays stand still.
func (p *Pools) Reactors() []*Reactor { return p.reactors.all }

// Close drops the free buffers, and closes the free pipes and the reactors. The
// relays that use the pools must have ended, and the reactors' Serve should
// have.
func (p *Pools) Close() {
	p.mu.Lock()
	p.closed, p.buffers = true, nil
	p.closePipes()
	p.mu.Unlock()
	p.closeReactors()
}

// takeBuffer is a buffer of size bytes.
func (p *Pools) takeBuffer(size int) []byte {
	if p != nil {
		if b := p.popBuffer(); len(b) == size { // another size is from before a reload
			return b
		}
	}
	return make([]byte, size)
}

func (p *Pools) popBuffer() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.buffers) - 1
	if last < 0 {
		return nil
	}
	b := p.buffers[last]
	p.buffers[last] = nil
	p.buffers = p.buffers[:last]
	return b
}

func (p *Pools) giveBuffer(b []byte) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed && len(p.buffers) < p.o.IdleBuffers {
		p.buffers = append(p.buffers, b)
	}
}
