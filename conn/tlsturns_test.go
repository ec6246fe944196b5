package conn

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cleversocks/authsvc"
)

// shaking are handshakes in a bubble, on one processor.
type shaking struct {
	queue   *authsvc.Queue
	waiting atomic.Int64
}

func newShaking() *shaking {
	s := new(shaking)
	s.queue = authsvc.NewQueue(authsvc.QueueOptions{Concurrency: 1, PerSource: handshakesWaiting, Waiting: handshakesWaiting, Gauge: &s.waiting})
	return s
}

func (s *shaking) turns(ctx context.Context, source byte) *tlsTurns {
	return &tlsTurns{queue: s.queue, ctx: ctx, source: netip.AddrFrom4([4]byte{192, 0, 2, source})}
}

// says is a client that has said something.
type says struct{ net.Conn }

func (says) Read(b []byte) (int, error) { return len(b), nil }

// compute is a handshake that reads once and computes for a second.
func compute(t *tlsTurns) error {
	defer t.Rest()
	if _, err := t.read(says{}, make([]byte, 1)); err != nil {
		return err
	}
	time.Sleep(time.Second) //nolint:forbidigo // the bubble's clock
	return nil
}

// Of a thousand handshakes from one source and one from another, the other is
// second in line and not the last. The gauge shows who waits.
func TestSourcesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShaking()
		for range 1000 {
			go func() { _ = compute(s.turns(t.Context(), 1)) }()
		}
		synctest.Wait()
		if n := s.waiting.Load(); n != 999 {
			t.Errorf("%d wait", n)
		}
		began := time.Now()
		if err := compute(s.turns(t.Context(), 2)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("another source's took %v", took)
		}
		time.Sleep(1000 * time.Second) //nolint:forbidigo // the bubble's clock
		if n := s.waiting.Load(); n != 0 {
			t.Errorf("%d wait at the end", n)
		}
	})
}

// A handshake that waits for its client has no turn, however long that takes; nor
// has one that has ended, whose client has left, or whose connection broke.
func TestWaitingTakesNoTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShaking()
		served := func(what string) {
			t.Helper()
			began := time.Now()
			if err := compute(s.turns(t.Context(), 9)); err != nil || time.Since(began) > time.Second {
				t.Errorf("%s: %v, %v", what, time.Since(began), err)
			}
		}
		ours, client := net.Pipe()
		silent := s.turns(t.Context(), 1)
		done := make(chan error, 1)
		go func() {
			_, err := silent.read(ours, make([]byte, 1))
			done <- err
		}()
		synctest.Wait()
		served("while a client is silent")
		if _, err := client.Write([]byte{1}); err != nil || <-done != nil {
			t.Fatal(err)
		}
		silent.Rest()
		silent.Rest() // a second time is none
		served("after a rest")

		_ = client.Close()
		if _, err := silent.read(ours, make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("a client that left: %v", err)
		}
		served("after a client has left")

		busy := s.turns(t.Context(), 1)
		if _, err := busy.read(says{}, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { time.Sleep(time.Second); cancel() }() //nolint:forbidigo // the bubble's clock
		if err := compute(s.turns(ctx, 2)); !errors.Is(err, context.Canceled) {
			t.Errorf("one whose session has ended in the queue: %v", err)
		}
		busy.Rest()
		served("after that")
		if n := s.waiting.Load(); n != 0 {
			t.Errorf("%d wait", n)
		}
	})
}
