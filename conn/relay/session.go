package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"cleversocks/conn/cause"
)

// session is one relay: two ends and a pump each way. There is one per open
// tunnel, so what it holds while idle counts.
type session struct {
	ctx      context.Context
	o        Options
	done     func(Result)
	started  time.Time
	own      Counters // when the caller gave none
	client   end
	server   end
	in, out  pump
	running  atomic.Int32 // pumps on goroutines that have not ended
	stopped  chan struct{}
	stopOnce sync.Once
	// clientEnded is closed at the client's end of stream; nil without a meter.
	clientEnded chan struct{}

	pumps     sync.Mutex   // held by a turn, which moves the pumps of a reactor's relay
	reactor   *Reactor     // nil: each pump has a goroutine to its end
	watched   bool         // the reactor has it
	slot      int32        // the reactor's number for this relay
	finishing bool         // both pumps have ended
	ends      atomic.Int32 // clean ends of stream
	lingering atomic.Bool  // a pump on a goroutine waits for a reset, once it has ended
	deserted  atomic.Bool  // a pump on a goroutine has ended and does not wait

	callbacks  sync.WaitGroup // the context's and the idle timer's
	stopCancel func() bool
	timer      *time.Timer

	mu      sync.Mutex
	verdict verdict
	over    bool  // both pumps have ended: no more idle checks
	seen    int64 // bytes both ways at the last check
	queued  int   // bytes unacknowledged by both peers at the last check
	quiet   time.Duration
	pausing atomic.Int32 // pumps that the meter holds up
}

func newSession(ctx context.Context, client, server net.Conn, o Options, done func(Result)) *session {
	if o.BufferSize <= 0 {
		o.BufferSize = DefaultBufferSize
	}
	s := &session{ctx: ctx, o: o, done: done, started: time.Now()}
	if s.o.Counters == nil {
		s.o.Counters = &s.own
	}
	s.client.init(client)
	s.server.init(server)
	if o.Meter != nil {
		s.stopped = make(chan struct{})
		s.clientEnded = make(chan struct{})
	}
	s.in.init(s, In, &s.client, &s.server, &s.o.Counters.In)
	s.out.init(s, Out, &s.server, &s.client, &s.o.Counters.Out)
	if o.Metrics != nil {
		s.in.metric, s.out.metric = o.Metrics.BytesIn, o.Metrics.BytesOut
	}
	return s
}

// start gives the relay's pumps to a reactor, or each to a fresh goroutine
// with a small stack.
func (s *session) start() {
	if !s.begin() {
		go s.in.run()
		go s.out.run()
	}
}

// begin makes the relay ready to move bytes. It says whether a reactor moves
// them.
func (s *session) begin() (watched bool) {
	// Handshake deadlines must not end the relay. A conn that cannot take a
	// deadline fails its first read too.
	_ = s.client.conn.SetDeadline(time.Time{})
	_ = s.server.conn.SetDeadline(time.Time{})
	s.running.Store(2)
	s.pumps.Lock() // an early end waits until it is clear how to end
	defer s.pumps.Unlock()
	s.callbacks.Add(1)
	s.stopCancel = context.AfterFunc(s.ctx, s.cancelled)
	s.chooseReactor()
	s.startIdleChecks()
	if s.reactor != nil && s.watchPumps() {
		return true
	}
	s.reactor = nil
	s.in.where.set(alone)
	s.out.where.set(alone)
	return false
}

// startIdleChecks starts the idle timeout, unless the relay has ended.
func (s *session) startIdleChecks() {
	if s.o.Idle <= 0 {
		return
	}
	s.mu.Lock() // the first check must find s.timer
	defer s.mu.Unlock()
	if s.over || s.timer != nil {
		return
	}
	s.callbacks.Add(1)
	s.timer = time.AfterFunc(s.idleStep(), s.checkIdle)
}

// pumpEnded is the last thing a pump does. The second to end closes the relay.
func (s *session) pumpEnded() {
	if s.running.Add(-1) == 0 {
		s.finish()
	}
}

// finish closes both conns, waits for the callbacks and reports.
func (s *session) finish() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	if s.timer != nil && s.timer.Stop() {
		s.callbacks.Done()
	}
	if s.client.dead.Load() {
		s.server.resetWhenDelivered(s.ctx)
	}
	if s.server.dead.Load() {
		s.client.resetWhenDelivered(s.ctx)
	}
	if s.stopCancel() {
		s.callbacks.Done()
	}
	s.callbacks.Wait()
	s.mu.Lock()
	v := s.verdict
	s.mu.Unlock()
	if v.abort {
		s.client.resetOnClose()
		s.server.resetOnClose()
	}
	// Nothing is left to lose: all was delivered, or the end is a reset.
	_ = s.client.conn.Close()
	_ = s.server.conn.Close()
	if s.watched {
		s.leave()
	}
	r := Result{In: s.o.Counters.In.Load(), Out: s.o.Counters.Out.Load(), Cause: v.cause, Err: v.err}
	if m := s.o.Metrics; m != nil {
		m.Duration.UpdateDuration(s.started)
		m.End.Of(r.Cause).Inc()
	}
	s.report(r)
}

// report calls done. A panic there is a defect of the owner's, and must not end
// the relays of others.
func (s *session) report(r Result) {
	defer func() {
		if v := recover(); v != nil && s.o.Panicked != nil {
			s.o.Panicked(v)
		}
	}()
	s.done(r)
}

// idleChecks is how often the idle timer looks in one idle timeout.
const idleChecks = 4

func (s *session) idleStep() time.Duration { return max(s.o.Idle/idleChecks, time.Millisecond) }

// checkIdle compares the byte counts with those of the last check, so that
// moving bytes never touches a timer.
func (s *session) checkIdle() {
	defer s.callbacks.Done()
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return
	}
	step := s.idleStep()
	switch {
	case s.moved():
		s.quiet = 0
	case s.pausing.Load() == 0: // a pause is no silence of the peers', and no sign of life
		s.quiet += step
	}
	expired, still := s.quiet >= s.o.Idle, s.quiet > 0
	if !expired {
		s.callbacks.Add(1)
		s.timer.Reset(step)
	}
	s.mu.Unlock()
	switch {
	case expired:
		s.stop(verdict{cause: cause.Idle})
	case still:
		s.fold()
	}
}

// moved says whether anything happened since it was last asked. A slow peer
// that drains its queue without making room for a write moves too.
func (s *session) moved() bool {
	bytes := s.o.Counters.In.Load() + s.o.Counters.Out.Load()
	queued := s.client.queued() + s.server.queued()
	moved := bytes != s.seen || queued != s.queued
	s.seen, s.queued = bytes, queued
	return moved
}

// guard ends the relay when its pump's goroutine panics.
func (s *session) guard() {
	v := recover()
	if v == nil {
		return
	}
	s.stop(panicVerdict(v))
	if s.o.Panicked != nil {
		s.o.Panicked(v)
	}
}

var errPanic = errors.New("relay panicked")

func panicVerdict(v any) verdict {
	err, ok := v.(error)
	if !ok {
		err = fmt.Errorf("%v", v)
	}
	return verdict{rank: rankFinal, cause: cause.Error, err: errors.Join(errPanic, err), abort: true}
}
