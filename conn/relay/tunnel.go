package relay

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"cleversocks/conn/cause"
	"cleversocks/metrics"
)

// Tunnel is one relay: two ends, and a pump for each direction. There is one for
// each open tunnel of the daemon, so what it holds while idle counts.
type Tunnel struct {
	o        *common
	counters *Counters
	meter    Meter
	panicked func(any)
	lasts    func(server int)
	done     func(Result)
	began    time.Duration // since epoch

	client, server end
	in, out        pump
	reactor        *Reactor // moves both pumps; nil: each has a goroutine
	slot           int32    // the reactor's number for this tunnel
	queued         int32    // bytes not acknowledged by both peers at the last idle check

	// callbacks counts the goroutines and timers that may still use the tunnel.
	// finish waits for them.
	callbacks sync.WaitGroup
	idle      idleCheck
	waits     waiting // for the check

	// mu is held by whoever changes a pump's place, and by the reactor while it
	// moves a pump. ARCHITECTURE.md says which locks may be taken under it.
	mu      sync.Mutex
	early   bool          // the idle check that is due comes after bareAfter
	closing bool          // both pumps have ended, and finish is under way
	closed  bool          // the ends are closed, or about to be
	hurried chan struct{} // closed to cut the wait of finish short; nil: it does not wait
	verdict *verdict      // nil: it goes on
}

func newTunnel(client, server net.Conn, o Options, done func(Result)) *Tunnel {
	t := &Tunnel{done: done}
	t.client.init(client)
	t.server.init(server)
	t.init(o)
	return t
}

// init is for a tunnel that has its two ends.
func (t *Tunnel) init(o Options) {
	if o.BufferSize <= 0 {
		o.BufferSize = DefaultBufferSize
	}
	t.o = o.Pools.inCommon(common{Engine: o.Engine, BufferSize: o.BufferSize, Idle: o.Idle, Metrics: o.Metrics, Pools: o.Pools})
	t.counters, t.meter, t.panicked, t.lasts = o.Counters, o.Meter, o.Panicked, o.Lasts
	if t.counters == nil {
		t.counters = new(Counters)
	}
	t.began = time.Since(epoch)
	t.in.init(t, In)
	t.out.init(t, Out)
}

// common is what all relays of one generation of the settings are told: it is there
// once, not in each of them.
type common struct {
	Engine     Engine
	BufferSize int
	Idle       time.Duration
	Metrics    *metrics.Relay
	Pools      *Pools
}

// inCommon is c, where relays that share p have it already.
func (p *Pools) inCommon(c common) *common {
	if p == nil {
		alone := c
		return &alone
	}
	if last := p.common.Load(); last != nil && *last == c {
		return last
	}
	fresh := c // c itself would be allocated each time
	p.common.Store(&fresh)
	return &fresh
}

// start gives the pumps to a reactor, or each to a new goroutine, whose stack is
// small.
func (t *Tunnel) start() {
	// Handshake deadlines must not end the tunnel. A conn that cannot take a
	// deadline fails its first read too.
	_ = t.client.conn.SetDeadline(time.Time{})
	_ = t.server.conn.SetDeadline(time.Time{})
	over := t.locked(func() {
		t.chooseReactor()
		defer t.startIdleChecks() // it depends on whether there is a reactor
		if t.reactor != nil && t.join() {
			if t.o.Pools.bareAtOnce {
				t.strip()
			}
			return
		}
		t.reactor = nil
		t.in.launch()
		t.out.launch()
	})
	if over {
		t.finishLater()
	}
}

// locked runs f under the tunnel's lock. A panic in f ends the tunnel, and goes
// no further. It reports whether both pumps have ended by now: then it is the
// caller who finishes the tunnel, and nobody else is told so.
func (t *Tunnel) locked(f func()) (over bool) {
	t.mu.Lock()
	defer func() {
		t.contain(recover())
		over = t.in.place.at(ended) && t.out.place.at(ended) && !t.closing
		t.closing = t.closing || over
		t.mu.Unlock()
	}()
	f()
	return false
}

// contain ends the tunnel for a panic with v, which is nil if there was none.
// The caller holds t.mu.
func (t *Tunnel) contain(v any) {
	if v == nil {
		return
	}
	t.note(panicVerdict(v))
	t.halt()
	if t.panicked != nil {
		// Under the lock: once it is free, the other pump may end the tunnel,
		// and it is done with before its owner has been told.
		t.panicked(v)
	}
}

// finishLater is finish for a callback or a reactor, which must not wait.
func (t *Tunnel) finishLater() { go t.finish() }

// finish closes both conns, waits for the callbacks and reports.
func (t *Tunnel) finish() {
	t.stopIdleChecks()
	if t.client.dead || t.server.dead {
		t.deliverBeforeReset()
	}
	t.callbacks.Wait()
	t.mu.Lock()
	v := t.verdict
	if v == nil {
		v = new(verdict)
	}
	t.closed = true
	t.mu.Unlock()
	if v.abort {
		t.client.resetOnClose()
		t.server.resetOnClose()
	}
	// Nothing is left to lose: all was delivered, or the end is a reset.
	t.client.close()
	t.server.close()
	if t.reactor != nil {
		t.leave()
	}
	r := Result{In: t.counters.In.Load(), Out: t.counters.Out.Load(), Cause: v.cause, Err: v.err}
	if m := t.o.Metrics; m != nil {
		m.Duration.Update((time.Since(epoch) - t.began).Seconds())
		m.End.Of(r.Cause).Inc()
	}
	t.report(r)
}

// deliverBeforeReset has the side that is left take what is queued for it, before
// it sees a reset.
func (t *Tunnel) deliverBeforeReset() {
	hurried := make(chan struct{})
	t.mu.Lock()
	if t.verdict != nil && t.verdict.abort {
		close(hurried)
	} else {
		t.hurried = hurried
	}
	t.mu.Unlock()
	if t.client.dead {
		t.server.resetWhenDelivered(hurried)
	}
	if t.server.dead {
		t.client.resetWhenDelivered(hurried)
	}
}

// ControlServer runs f with the descriptor of the server's TCP socket, or of that
// which the server's conn runs over. It fails when there is none, or no more.
func (t *Tunnel) ControlServer(f func(fd uintptr)) error {
	t.mu.Lock() // so that it is not closed meanwhile
	defer t.mu.Unlock()
	if t.closed || !t.server.isTCP {
		return net.ErrClosed
	}
	t.server.control(func(fd int) { f(uintptr(fd)) })
	return nil
}

// report calls done. A panic there is a defect of the owner's, and must not end
// the tunnels of others.
func (t *Tunnel) report(r Result) {
	defer func() {
		if v := recover(); v != nil && t.panicked != nil {
			t.panicked(v)
		}
	}()
	t.done(r)
}

var errPanic = errors.New("relay panicked")

func panicVerdict(v any) *verdict {
	err, ok := v.(error)
	if !ok {
		err = fmt.Errorf("%v", v)
	}
	return &verdict{rank: rankFinal, cause: cause.Error, err: errors.Join(errPanic, err), abort: true}
}
