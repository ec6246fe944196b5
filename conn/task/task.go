// Package task runs goroutines that somebody waits for. A Scope owns its
// goroutines: the first error or panic among them ends it for all, and Wait
// returns when the last one has. A panic ends the scope that it happened in and
// nothing else: it becomes an error, is counted and is logged with its stack.
//
//	scope, ctx := task.New(ctx, reporter, "resolver")
//	scope.Go(func() error { return s.read(ctx) })
//	scope.Go(func() error { return s.write(ctx) })
//	err := scope.Wait()
//
// Every goroutine of this program is started by a Scope or by the supervisor
// tree; `task lint` holds that.
package task

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"

	"golang.org/x/sync/errgroup"
)

// Reporter hears of panics. A nil Reporter, and one without a Log or a Count,
// stays silent; the panic is an error to the scope's owner all the same.
type Reporter struct {
	Log *slog.Logger
	// Count adds to cleversocks_panics_total; where is the scope's name.
	Count func(where string)
}

// PanicError is a panic as an error.
type PanicError struct {
	Where string // the scope's name
	Value any    // what was given to panic
	Stack []byte
}

// Error leaves the stack out, which the log has.
func (e *PanicError) Error() string { return fmt.Sprintf("panic in %s: %v", e.Where, e.Value) }

// Unwrap is the error that was given to panic, if it was one.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// Scope is a group of goroutines with one owner, who must call Wait. Its
// goroutines may start others in it.
type Scope struct {
	group    *errgroup.Group
	ctx      context.Context //nolint:containedctx // a scope is the life of its context
	cancel   context.CancelCauseFunc
	reporter *Reporter
	where    string
}

// New makes a scope and the context that its goroutines run under, which ends
// with ctx, with the first error, and when Wait returns. where names the scope
// in logs and in the label of the panic counter.
func New(ctx context.Context, r *Reporter, where string) (*Scope, context.Context) {
	cancelable, cancel := context.WithCancelCause(ctx)
	group, inner := errgroup.WithContext(cancelable)
	return &Scope{group: group, ctx: inner, cancel: cancel, reporter: r, where: where}, inner
}

// SetLimit bounds how many goroutines run at a time; Go then waits for a place.
// It must be called before the first Go.
func (s *Scope) SetLimit(n int) { s.group.SetLimit(n) }

// Go runs f on a goroutine of the scope's. An error or a panic ends the
// scope's context; the first one is what Wait returns.
func (s *Scope) Go(f func() error) {
	s.group.Go(func() error { return s.reporter.Contain(s.ctx, s.where, f) })
}

// TryGo is Go, unless the scope's limit is reached: then it reports false.
func (s *Scope) TryGo(f func() error) bool {
	return s.group.TryGo(func() error { return s.reporter.Contain(s.ctx, s.where, f) })
}

// Contain runs f on the caller's goroutine, a timer's for example, and turns a
// panic into an error. Unlike Go it ends nobody's context.
func (s *Scope) Contain(f func() error) error { return s.reporter.Contain(s.ctx, s.where, f) }

// Cancel ends the scope's context with a cause. It does not wait.
func (s *Scope) Cancel(cause error) { s.cancel(cause) }

// Wait returns when all goroutines of the scope have, with the first error
// among theirs. The scope's context has ended then.
func (s *Scope) Wait() error {
	defer s.cancel(nil)
	return s.group.Wait()
}

// Contain runs f on the caller's goroutine and turns a panic into a
// *PanicError, counted and logged.
func (r *Reporter) Contain(ctx context.Context, where string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = r.Panicked(ctx, where, p)
		}
	}()
	return f()
}

// Panicked counts and logs what recover returned, for goroutines that must
// recover by themselves. It must be called from the deferred function that
// recovered, while the stack is still there.
func (r *Reporter) Panicked(ctx context.Context, where string, p any, attrs ...slog.Attr) *PanicError {
	e := &PanicError{Where: where, Value: p, Stack: debug.Stack()}
	if r == nil {
		return e
	}
	if r.Count != nil {
		r.Count(where)
	}
	if r.Log != nil {
		attrs = append(attrs, slog.String("where", where), slog.Any("panic", p), slog.String("stack", string(e.Stack)))
		r.Log.LogAttrs(ctx, slog.LevelError, "panic", attrs...)
	}
	return e
}
