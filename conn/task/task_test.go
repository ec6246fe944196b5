package task

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

// A goroutine that panics must end its scope and nothing else, and be heard of.
func TestPanicEndsItsScopeAlone(t *testing.T) {
	var log bytes.Buffer
	var counted []string
	r := &Reporter{Log: slog.New(slog.NewTextHandler(&log, nil)), Count: func(where string) { counted = append(counted, where) }}
	scope, ctx := New(t.Context(), r, "resolver")
	scope.Go(func() error { panic("broken") })
	scope.Go(func() error { <-ctx.Done(); return nil })
	err := scope.Wait()
	p, ok := errors.AsType[*PanicError](err)
	if !ok || p.Where != "resolver" || p.Value != "broken" || !bytes.Contains(p.Stack, []byte("TestPanicEndsItsScopeAlone")) {
		t.Fatalf("Wait: %v", err)
	}
	if len(counted) != 1 || counted[0] != "resolver" {
		t.Errorf("counted %q", counted)
	}
	if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "broken") {
		t.Errorf("log: %s", log.String())
	}
	if t.Context().Err() != nil {
		t.Error("the owner's context ended with the scope")
	}
}

// The first error is the scope's, and the error that was panicked with can be
// found in it.
func TestFirstErrorEndsTheScope(t *testing.T) {
	errOne := errors.New("one")
	scope, ctx := New(t.Context(), nil, "test")
	scope.Go(func() error { panic(errOne) })
	<-ctx.Done()
	if err := scope.Wait(); !errors.Is(err, errOne) {
		t.Errorf("Wait: %v", err)
	}
}

// An owner ends its scope with a cause, which the goroutines see.
func TestCancelCause(t *testing.T) {
	cause := errors.New("the association is over")
	scope, ctx := New(t.Context(), nil, "test")
	seen := make(chan error, 1)
	scope.Go(func() error {
		<-ctx.Done()
		seen <- context.Cause(ctx)
		return nil
	})
	scope.Cancel(cause)
	if err := scope.Wait(); err != nil {
		t.Errorf("Wait: %v", err)
	}
	if got := <-seen; !errors.Is(got, cause) {
		t.Errorf("cause %v", got)
	}
}

// Wait without goroutines must not leave a context behind that never ends.
func TestWaitEndsTheContext(t *testing.T) {
	scope, ctx := New(t.Context(), nil, "test")
	if err := scope.Wait(); err != nil {
		t.Fatal(err)
	}
	if ctx.Err() == nil {
		t.Error("the scope's context outlived it")
	}
}
