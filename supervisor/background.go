package supervisor

import (
	"context"
	"errors"

	"cleversocks/conn/task"
)

// outcome is what a function in the background came to.
type outcome[T any] struct {
	value T
	err   error
}

// background runs f on a goroutine that nobody has to wait for, for system
// calls that nothing can interrupt. A panic is its error.
func background[T any](ctx context.Context, panics *task.Reporter, where string, f func() (T, error)) <-chan outcome[T] {
	done := make(chan outcome[T], 1)
	scope, _ := task.New(context.WithoutCancel(ctx), panics, where)
	scope.Go(func() error {
		var out outcome[T]
		out.err = panics.Contain(ctx, where, func() (err error) {
			out.value, err = f()
			return err
		})
		done <- out
		return nil
	})
	return done
}

// await is background for who waits, but not beyond the end of ctx.
func await[T any](ctx context.Context, panics *task.Reporter, where string, f func() (T, error)) (T, error) {
	select {
	case out := <-background(ctx, panics, where, f):
		return out.value, errors.Join(out.err, ctx.Err())
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}
