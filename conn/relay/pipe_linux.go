package relay

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// pipeSize is what one splice moves: 64 KiB cost 1.9 times the CPU, and
	// 1 MiB more than 256 KiB as well.
	pipeSize = 256 << 10
	// minPipeSize is the least that is better than copying: past the
	// per-user limit the kernel hands out two pages.
	minPipeSize = 64 << 10
	// idlePipes is how many free pipes stay for ever. The others, from a busy
	// hour or from clients that never read, would keep their descriptors.
	idlePipes = 16
	// trimEvery is how often free pipes are looked at while there are more. One
	// that nobody needed from one look to the next is closed, so within a minute.
	trimEvery = 20 * time.Second
)

// pipe is a kernel pipe, without buffers of its own while it is empty.
type pipe struct {
	r, w   uintptr
	size   int  // bytes it takes
	filled int  // bytes in it
	stuck  bool // the destination takes nothing of them
}

// pipeList is the pipes of Pools, under its lock.
type pipeList struct {
	free []*pipe
	open int // free and in use
	// spare is the least that were free since the last look.
	spare int
	trim  *time.Timer // nil: nobody is to look
	// stuck are those in use that a destination takes nothing of.
	stuck atomic.Int32
	// pipe2 is the system call, unless a test puts another one here.
	pipe2 func(fds []int, flags int) error
}

// takePipe is an empty pipe, or nil when there is none to be had: the limit is
// reached, or the descriptors or pages are used up. Relays then copy.
func (p *Pools) takePipe() *pipe {
	if p == nil {
		return newPipe(unix.Pipe2)
	}
	p.mu.Lock()
	if last := len(p.pipes.free) - 1; last >= 0 {
		taken := p.pipes.free[last]
		p.pipes.free = p.pipes.free[:last]
		p.pipes.spare = min(p.pipes.spare, last)
		p.mu.Unlock()
		return taken
	}
	if p.closed || p.pipes.open >= p.o.Pipes {
		p.mu.Unlock()
		p.full()
		return nil
	}
	p.pipes.open++
	pipe2 := p.pipes.pipe2
	p.mu.Unlock()
	if pipe2 == nil {
		pipe2 = unix.Pipe2
	}
	made := newPipe(pipe2)
	if made == nil {
		p.forgetPipe()
		p.full()
	}
	return made
}

// full tells that there is no pipe to be had.
func (p *Pools) full() {
	if p.o.Full != nil {
		p.o.Full()
	}
}

// givePipe takes a pipe back. One that is not empty is destroyed: its bytes
// would go to somebody else.
func (p *Pools) givePipe(given *pipe) {
	if p == nil {
		given.close()
		return
	}
	if given.filled == 0 && p.keepPipe(given) {
		return
	}
	given.close()
	p.forgetPipe()
}

func (p *Pools) keepPipe(given *pipe) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.pipes.free = append(p.pipes.free, given)
		p.trimLater()
	}
	return !p.closed
}

// trimLater has the free pipes looked at, once there are many. The caller holds
// the lock.
func (p *Pools) trimLater() {
	if p.pipes.trim == nil && len(p.pipes.free) > idlePipes {
		p.pipes.spare = len(p.pipes.free)
		p.pipes.trim = time.AfterFunc(trimEvery, p.trimPipes)
	}
}

// trimPipes closes the free pipes that nobody needed since the last look, but
// for idlePipes. They are the first ones: the last is taken first.
func (p *Pools) trimPipes() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	n := max(min(p.pipes.spare, len(p.pipes.free)-idlePipes), 0)
	for _, unused := range p.pipes.free[:n] {
		unused.close()
	}
	p.pipes.free = append([]*pipe(nil), p.pipes.free[n:]...) // the closed ones are garbage now
	p.pipes.open -= n
	p.pipes.trim = nil
	p.trimLater()
}

func (p *Pools) forgetPipe() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pipes.open--
}

// closePipes closes the free pipes. The caller holds the lock.
func (p *Pools) closePipes() {
	if p.pipes.trim != nil {
		p.pipes.trim.Stop() // one that runs already sees that the pools are closed
		p.pipes.trim = nil
	}
	for _, free := range p.pipes.free {
		free.close()
	}
	p.pipes.open -= len(p.pipes.free)
	p.pipes.free = nil
}

func newPipe(pipe2 func([]int, int) error) *pipe {
	var fds [2]int
	if pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	made := &pipe{r: uintptr(fds[0]), w: uintptr(fds[1])}
	size, err := unix.FcntlInt(made.w, unix.F_SETPIPE_SZ, pipeSize)
	if err != nil {
		size, err = unix.FcntlInt(made.w, unix.F_GETPIPE_SZ, 0)
	}
	if err != nil || size < minPipeSize {
		made.close()
		return nil
	}
	made.size = min(size, pipeSize)
	return made
}

func (p *pipe) close() {
	_ = unix.Close(int(p.r))
	_ = unix.Close(int(p.w))
}
