package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// pair is both ends of a channel.
func pair(t *testing.T) (a, b *channel) {
	t.Helper()
	a, fd, err := newPair()
	if err != nil {
		t.Fatal(err)
	}
	b, err = channelOf(os.NewFile(uintptr(fd), "other end"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	t.Cleanup(b.close)
	return a, b
}

// What is larger than a packet, and than the socket's buffer, arrives whole; a
// reader that is stopped inside a message reads it to its end first, so that
// another process can go on with the next.
func TestLargeMessages(t *testing.T) {
	a, b := pair(t)
	large := strings.Repeat("x", 3<<20)
	sent := make(chan error, 1)
	go func() { sent <- errors.Join(a.send(kindHello, large), a.send(kindYours, nil)) }()
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan struct{})
	go func() { <-first; cancel() }()
	close(first)
	var got string
	for got == "" { // it may have been stopped before the first packet
		m, err := b.receive(ctx)
		if errors.Is(err, context.Canceled) {
			ctx = t.Context()
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(m.Body, &got); err != nil {
			t.Fatal(err)
		}
	}
	if got != large {
		t.Errorf("%d bytes", len(got))
	}
	if m, err := b.receive(t.Context()); err != nil || m.Kind != kindYours {
		t.Errorf("%v, %v", m, err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestGone(t *testing.T) {
	a, b := pair(t)
	a.close()
	if _, err := b.receive(t.Context()); !errors.Is(err, ErrGone) {
		t.Errorf("%v", err)
	}
	if err := b.send(kindReady, nil); !errors.Is(err, ErrGone) {
		t.Errorf("%v", err)
	}
}

// The last words of a process that did not hear us out: a session's end in it was an
// event that nobody heard of.
func TestLastWords(t *testing.T) {
	a, b := pair(t)
	if err := b.send(kindReload, nil); err != nil { // which nobody reads
		t.Fatal(err)
	}
	for range 2 {
		if err := a.send(kindEvents, nil); err != nil {
			t.Fatal(err)
		}
	}
	a.close()
	for range 2 {
		if m, err := b.receive(t.Context()); err != nil || m.Kind != kindEvents {
			t.Errorf("%v, %v", m, err)
		}
	}
	if _, err := b.receive(t.Context()); !errors.Is(err, ErrGone) {
		t.Errorf("%v", err)
	}
}

// A failure of the other side is the error, in its words; what a newer version
// says besides is passed over.
func TestExpect(t *testing.T) {
	a, b := pair(t)
	for _, err := range []error{a.send("of the future", 1), a.send(kindReady, []int{4}), a.send(kindFailed, "listener[0].address: taken")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var taken []int
	if err := b.expect(t.Context(), kindReady, &taken, nil); err != nil || len(taken) != 1 || taken[0] != 4 {
		t.Errorf("%v, %v", taken, err)
	}
	if err := b.expect(t.Context(), kindServing, nil, nil); err == nil || err.Error() != "listener[0].address: taken" {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := b.expect(ctx, kindServing, nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// A table of any size travels in batches, and an empty one not at all.
func TestTell(t *testing.T) {
	a, b := pair(t)
	list := make([]int, 3*batch+1)
	for i := range list {
		list[i] = i
	}
	sent := make(chan error, 1)
	go func() {
		_, first := a.tell("empty", []int{})
		_, second := a.tell("numbers", list)
		sent <- errors.Join(first, second, a.send(kindYours, nil))
	}()
	var got []int
	err := b.expect(t.Context(), kindYours, nil, func(m message) error {
		return stateOf(m, func(s State) error {
			var part []int
			err := json.Unmarshal(s.Entries, &part)
			got = append(got, part...)
			if s.Table != "numbers" {
				t.Errorf("table %q", s.Table)
			}
			return err
		})
	})
	if err = errors.Join(err, <-sent); err != nil || len(got) != len(list) || got[len(got)-1] != len(list)-1 {
		t.Errorf("%d entries, %v", len(got), err)
	}
}
