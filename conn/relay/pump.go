package relay

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"cleversocks/conn/cause"
	"cleversocks/metrics"
)

// firstRead is what an idle direction keeps for a source that cannot tell
// when it is readable, such as a TLS conn.
const firstRead = 512

// pump moves one direction: receive a chunk, deliver all of it, again. What it
// holds, it holds from a readable source to a delivered chunk.
type pump struct {
	s        *session
	src, dst *end
	counter  *atomic.Int64
	metric   *metrics.Counter

	// One of the two has the chunk that is on its way.
	buf  []byte
	pipe *pipe
	off  int // next byte of buf to deliver
	left int // bytes to deliver

	err        error // what the source or the destination said
	onReadable func(fd uintptr) bool
	onWritable func(fd uintptr) bool
	granted    int           // bytes that the meter has booked for the next chunk
	wait       time.Duration // how long the meter says to wait, with errPaused
	unbooked   bool          // granted is for the end of stream alone
	first      []byte        // firstRead bytes, only for a source without readiness
	dir        Direction

	// For a reactor, under s.pumps.
	tryRead  func(fd uintptr)
	tryWrite func(fd uintptr)
	where    whereabouts
	pause    *time.Timer // the meter's last one
	went     bool        // the last try did not have to wait
	clean    bool        // the source's end of stream was passed on
	blocks   bool        // the destination has had no room once, so it is watched for some
	probed   bool        // a byte has gone ahead of the meter's pause
	quiet    bool        // the goroutine of a bulk transfer found nothing more to do
	streak   uint8       // large chunks in a row

	canSplice bool
	splicing  bool
	stuck     bool  // the destination takes nothing of what is in the pipe
	small     uint8 // chunks in a row too small for splice
	unpiped   uint8 // full reads to go until a pipe is asked for again
}

func (p *pump) init(s *session, dir Direction, src, dst *end, counter *atomic.Int64) {
	p.s, p.dir, p.src, p.dst, p.counter = s, dir, src, dst, counter
	p.initReadiness()
	if src.raw == nil {
		p.first = make([]byte, firstRead)
	}
}

// run is the goroutine of one direction.
func (p *pump) run() {
	defer p.s.pumpEnded()
	defer p.s.guard()
	defer p.abandon()
	defer func() { p.settleGrant(0) }()
	p.move()
	p.linger()
}

// move moves chunks until the pump has ended, or leaves its goroutine.
func (p *pump) move() {
	for {
		err := p.receive()
		if errors.Is(err, errPaused) && p.sleep(p.wait) {
			continue
		}
		if err == nil {
			err = p.payBlocking()
		}
		if err != nil {
			p.notReceived(err)
			return
		}
		if err := p.deliver(); err != nil {
			p.destinationFailed(err)
			return
		}
	}
}

// notReceived is for the end of a pump's goroutine, of one kind or another.
func (p *pump) notReceived(err error) {
	said, isMeter := errors.AsType[meterError](err)
	switch {
	case isMeter:
		p.s.stop(meterVerdict(said.error))
	case errors.Is(err, errPaused): // the relay ended during the pause
	case !p.becomesQuiet(err):
		p.sourceEnded(err)
	}
}

// receive waits for the source and takes a chunk from it.
func (p *pump) receive() error {
	if p.src.raw == nil {
		return p.receiveBlocking()
	}
	if err := p.src.raw.Read(p.onReadable); err != nil {
		return err
	}
	err := p.err
	p.err = nil
	return err
}

// receiveBlocking reads from a conn that cannot say when it is readable. While
// it waits it holds firstRead bytes; a read that fills them is followed by one
// into a buffer, so only a source that pauses exactly there makes it wait with
// a buffer in hand.
func (p *pump) receiveBlocking() error {
	into := p.first
	if p.splicing { // the last read came full
		into = p.takeBuffer()
	} else {
		p.dropBuffer()
	}
	n, err := p.src.conn.Read(into)
	if n == 0 && err == nil {
		err = io.ErrNoProgress
	}
	if n > 0 {
		err = nil // an error comes again
		p.splicing = n == len(into)
	}
	p.off, p.left = 0, n
	return err
}

// chunk is the bytes in hand of a chunk that is in memory.
func (p *pump) chunk() []byte {
	b := p.buf
	if b == nil {
		b = p.first
	}
	return b[p.off : p.off+p.left]
}

// deliver writes the whole chunk, for as long as the destination takes.
func (p *pump) deliver() error {
	if p.dst.raw == nil {
		n, err := p.dst.conn.Write(p.chunk())
		p.delivered(n)
		return err
	}
	p.dst.writing.Store(true)
	err := p.dst.raw.Write(p.onWritable)
	if err == nil {
		err, p.err = p.err, nil
	}
	if err == nil { // else until it is known what that means
		p.dst.writing.Store(false)
	}
	return err
}

// delivered counts n bytes that the destination has taken.
func (p *pump) delivered(n int) {
	p.off += n
	p.left -= n
	p.counter.Add(int64(n))
	if p.metric != nil {
		p.metric.Add(n)
	}
}

// sourceEnded passes on that nothing more comes from the source.
func (p *pump) sourceEnded(err error) {
	reset := !errors.Is(err, io.EOF)
	if !reset && p.wasReset() {
		reset, err = true, syscall.ECONNRESET
	}
	if !reset {
		p.s.note(verdict{rank: rankClosed, cause: p.pick(cause.ClientClosed, cause.ServerClosed)})
		p.clean = true
		if p.dir == In && p.s.clientEnded != nil {
			close(p.s.clientEnded)
		}
		if p.s.ends.Add(1) == 2 && p.dst.raw != nil {
			return // all is delivered: the close that follows says it
		}
		if !p.dst.closeWrite() { // no socket, so this is no turn
			p.s.stop(verdict{cause: p.pick(cause.ClientClosed, cause.ServerClosed)})
		}
		return
	}
	if interrupted(err) {
		return
	}
	p.s.note(verdict{rank: rankFinal, err: err, cause: p.pick(cause.ClientReset, cause.ServerReset)})
	p.src.dead.Store(true)
	// Nothing can reach the source any more: end the other direction.
	if p.s.reactor != nil {
		p.s.haltFrom(p)
		return
	}
	p.s.wakePaused()
	_ = p.dst.conn.SetReadDeadline(past())
	_ = p.src.conn.SetWriteDeadline(past())
}

// checkReset is for a pump that has ended: its source may be reset behind its
// end of stream, which nothing would read any more. Then nobody takes what the
// other direction waits for. So it is for one that its meter holds up, whose
// peer has lost interest in what it still says. The caller holds s.pumps.
func (p *pump) checkReset() {
	unread := p.where.at(paused) || p.where.at(ended) && !p.opposite().where.at(ended)
	if unread && p.src.resetBehindEnd() {
		p.sourceEnded(p.src.failure())
	}
}

// linger has the goroutine of a direction that is over wait, as long as the
// other one goes on, for the reset that checkReset would find.
func (p *pump) linger() {
	if p.clean && p.src.tcp != nil && p.s.ends.Load() < 2 {
		p.abandon()
		p.s.lingering.Store(true)
		if !p.s.deserted.Load() && p.src.awaitReset() {
			p.sourceEnded(p.src.failure())
		}
		return
	}
	p.s.deserted.Store(true)
	if p.s.lingering.Load() {
		_ = p.dst.conn.SetReadDeadline(past()) // the other one waits there
	}
}

// opposite is the pump of the other direction.
func (p *pump) opposite() *pump {
	if p.dir == In {
		return &p.s.out
	}
	return &p.s.in
}

// destinationFailed records that the destination is gone. What it sent before
// is still to be delivered: the other direction ends by itself when it has.
func (p *pump) destinationFailed(err error) {
	if interrupted(err) {
		return
	}
	p.s.note(verdict{rank: rankFinal, err: err, cause: p.pick(cause.ServerReset, cause.ClientReset)})
	p.dst.dead.Store(true)
	p.dst.writing.Store(false)
}

// wasReset says whether the source's end of stream was a reset in truth: a
// write that meets a reset first takes the socket's error with it, and the
// next read sees a clean end.
func (p *pump) wasReset() bool {
	if p.src.dead.Load() {
		return true
	}
	if p.src.raw == nil || !p.src.writing.Load() {
		// Look again: the write may have ended, and with the reset.
		return p.src.dead.Load()
	}
	// In this order: our own end of stream, sent meanwhile, closes the socket
	// as well.
	return p.src.disconnected() && !p.src.finSent.Load()
}

// interrupted says whether err is our own doing: nobody else sets deadlines.
func interrupted(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// pick chooses by who the source is.
func (p *pump) pick(client, server string) string {
	if p.src == &p.s.client {
		return client
	}
	return server
}

// takeBuffer makes sure that there is a buffer in hand.
func (p *pump) takeBuffer() []byte {
	if p.buf == nil {
		p.buf = p.s.o.Pools.takeBuffer(p.s.o.BufferSize)
	}
	return p.buf
}

func (p *pump) dropBuffer() {
	if p.buf != nil {
		if len(p.buf) == p.s.o.BufferSize { // another one held what was in a pipe
			p.s.o.Pools.giveBuffer(p.buf)
		}
		p.buf = nil
	}
}

func (p *pump) dropPipe() {
	p.pipeMoves()
	if p.pipe != nil {
		p.s.o.Pools.givePipe(p.pipe)
		p.pipe = nil
	}
}

// abandon gives back all that is in hand.
func (p *pump) abandon() {
	p.dropBuffer()
	p.dropPipe()
}
