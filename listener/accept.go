package listener

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/thejerf/suture/v4"

	"cleversocks/conn/adopt"
	"cleversocks/conn/reset"
	"cleversocks/metrics"
)

// Back-off while descriptors or memory are exhausted.
const (
	firstBackoff = 5 * time.Millisecond
	lastBackoff  = time.Second
	// lastLook bounds how long a socket that is to be closed is accepted from
	// once nothing is queued: a handshake that had begun ends in a round trip.
	lastLook = 200 * time.Millisecond
	// lastTries bounds how many connections are accepted then, where new ones
	// cannot be kept out.
	lastTries = 8192
)

// Service accepts from one socket. Nothing slow happens in its loop.
type Service struct {
	name     string
	listener string
	told     *atomic.Pointer[adopt.Options]
	passed   *atomic.Bool
	closing  <-chan struct{}
	reacting *sync.RWMutex
	socket   socket
	handler  Handler
	log      *slog.Logger
	accepted *metrics.Counter
	refused  metrics.CounterVec
}

func (s *Service) String() string { return "listener " + s.name }

// Serve accepts until ctx ends or the socket is closed.
func (s *Service) Serve(ctx context.Context) error {
	spare := newSpare()
	defer spare.close()
	// A restart finds the deadline and the filter of its predecessor's end.
	if err := s.socket.SetDeadline(time.Time{}); err != nil {
		return errors.Join(suture.ErrDoNotRestart, err)
	}
	if raw, err := s.socket.SyscallConn(); err == nil && !s.passed.Load() {
		letIn(raw)
	}
	expired := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		_ = s.socket.SetDeadline(time.Unix(1, 0))
		close(expired)
	})()
	exhausted := exhaustion{service: s, spare: spare}
	for {
		c, err := s.accept(ctx, &exhausted)
		switch {
		case err == nil:
			exhausted.over()
			s.hand(c)
		case ctx.Err() != nil:
			<-expired // or it would undo the deadline of takeQueued
			s.takeQueued()
			return ctx.Err()
		case errors.Is(err, net.ErrClosed):
			return errors.Join(suture.ErrDoNotRestart, err)
		case isExhaustion(err):
			exhausted.wait(ctx, err)
		default:
			// The client gave up between its handshake and our accept.
			s.log.LogAttrs(ctx, slog.LevelDebug, "accept failed", slog.String("listener", s.listener), slog.Any("err", err))
		}
	}
}

// accept is the next connection that the handler does not accept by itself. There
// is none on a unix socket.
func (s *Service) accept(ctx context.Context, exhausted *exhaustion) (net.Conn, error) {
	reactive, ok := s.handler.(Reactive)
	if socket, leaves := s.socket.(leaver); ok && leaves {
		if err := s.react(ctx, reactive, socket, exhausted); !errors.Is(err, errors.ErrUnsupported) {
			return nil, err
		}
	}
	return s.socket.Accept()
}

// react has the handler accept.
func (s *Service) react(ctx context.Context, reactive Reactive, socket leaver, exhausted *exhaustion) error {
	s.reacting.RLock()
	defer s.reacting.RUnlock()
	leave := func() (fd int, shared bool, err error) {
		fd, err = socket.Leave()
		return fd, socket.Shared(), err
	}
	return reactive.AcceptFrom(ctx, s.closing, leave, s.listener, func(refused string) {
		exhausted.over()
		s.accepted.Inc()
		if refused != "" {
			s.refused.Of(refused).Inc()
		}
	})
}

// takeQueued accepts what is in the queue of a socket that is about to be
// closed: to its clients, these connections are there already, and a reset
// would be the answer to their first bytes. No kernel moves them to another
// socket by itself (net.ipv4.tcp_migrate_req is 0). New ones are kept out first:
// what begins a handshake now would otherwise end it just after the last look.
// A socket that another process has too is left alone.
func (s *Service) takeQueued() {
	if s.passed.Load() {
		return
	}
	raw, err := s.socket.SyscallConn()
	if err != nil {
		return
	}
	look := time.Duration(0)
	if keepOut(raw) {
		look = lastLook
	}
	for range lastTries {
		if look == 0 && !queued(raw) {
			return
		}
		_ = s.socket.SetDeadline(time.Now().Add(max(look, lastLook/10))) // it may have been another's, and be gone
		switch c, err := s.socket.Accept(); {
		case err == nil:
			s.hand(c)
		case !errors.Is(err, os.ErrDeadlineExceeded) || look > 0:
			return
		}
	}
}

// hand gives a connection to the handler, or resets and counts it: a client
// past a limit must not hang in the backlog, nor one that the handler panicked on.
func (s *Service) hand(c net.Conn) {
	taken := false
	defer func() {
		if !taken {
			reset.Close(c)
		}
	}()
	s.accepted.Inc()
	s.told.Load().Set(c)
	reason := s.handler.Admit(c, s.listener)
	if taken = reason == ""; !taken {
		s.refused.Of(reason).Inc()
	}
}

func isExhaustion(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) ||
		errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}

// exhaustion is one accept loop's way through a time without descriptors.
type exhaustion struct {
	service *Service
	spare   *spare
	backoff time.Duration
	logged  time.Time
}

func (e *exhaustion) over() { e.backoff = 0 }

// wait resets the client at the head of the queue with the help of the spare
// descriptor, says so once a minute, and backs off.
func (e *exhaustion) wait(ctx context.Context, err error) {
	s := e.service
	works := false // the spare descriptor turns clients away
	if c := e.spare.accept(s.socket); c != nil {
		if e.spare.reopen() {
			s.hand(c) // the need is over: nobody has to be turned away
			return
		}
		s.accepted.Inc()
		s.refused.Of(metrics.RefusedDescriptors).Inc()
		s.handler.TurnedAway(c, s.listener, metrics.RefusedDescriptors)
		reset.Close(c)
		works = e.spare.reopen()
	}
	if now := time.Now(); e.logged.IsZero() || now.Sub(e.logged) >= time.Minute {
		e.logged = now
		s.log.LogAttrs(ctx, slog.LevelError, "cannot accept: out of descriptors or memory; new clients are reset",
			slog.String("listener", s.listener), slog.Any("err", err))
	}
	if works {
		// The queue moves: a longer pause would only leave clients hanging in
		// it. No pause at all would take a processor.
		e.backoff = firstBackoff
	} else {
		e.backoff = min(max(2*e.backoff, firstBackoff), lastBackoff)
	}
	timer := time.NewTimer(e.backoff)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// spare is a descriptor kept for the day that there is none left: closing it
// lets one more connection be accepted, to be reset.
type spare struct{ file *os.File }

func newSpare() *spare {
	s := &spare{}
	s.reopen()
	return s
}

func (s *spare) reopen() bool {
	if s.file == nil {
		s.file, _ = os.Open(os.DevNull)
	}
	return s.file != nil
}

func (s *spare) close() {
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
}

// accept gives the spare descriptor up for one connection; nil when that
// did not help.
func (s *spare) accept(from socket) net.Conn {
	s.close()
	c, err := from.Accept()
	if err != nil {
		s.reopen()
		return nil
	}
	return c
}
