package supervisor

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"cleversocks/authsvc"
	"cleversocks/conn"
	"cleversocks/conn/task"
	"cleversocks/supervisor/config"
)

// part is something that a reload touches. Parts are prepared in the order of
// their list, and then committed in the same order: see install. To add one,
// write it a file and a line in newParts.
type part interface {
	// Prepare verifies what the draft asks for and makes it ready, and changes
	// nothing that a connection could notice. A nil change has nothing to do.
	Prepare(ctx context.Context, d *draft) (change, error)
}

// change is a part's preparation. Exactly one of its methods is called, once.
type change interface {
	// Commit puts it in force. It cannot fail any more.
	Commit(ctx context.Context)
	// Rollback gives up what was prepared.
	Rollback(ctx context.Context)
}

// draft is a configuration on its way into force. Each part reads the settings
// in it, and leaves there what the parts after it need.
type draft struct {
	cfg *config.Config
	old *config.Config // the one in force; nil at the start

	sockets *socketChange    // of the listeners
	own     []netip.AddrPort // what this daemon listens on: never a destination
	users   *authsvc.Users   // also where there are none, for the limits
	// edited is what the users file is about to hold, when nothing but the
	// accounts changes; nil: it is read.
	edited  []byte
	removes string // the user whom that takes out; "": nobody
	// policy is what connections will see. Each part fills in its fields.
	policy *conn.Policy
}

// partFunc is a part that needs no state.
type partFunc func(ctx context.Context, d *draft) (change, error)

// Prepare calls f.
func (f partFunc) Prepare(ctx context.Context, d *draft) (change, error) { return f(ctx, d) }

// effect is a change that prepared nothing which would have to be given back.
type effect func(ctx context.Context)

// Commit calls e.
func (e effect) Commit(ctx context.Context) { e(ctx) }

// Rollback does nothing.
func (effect) Rollback(context.Context) {}

// onCommit is a part that has nothing to verify.
func onCommit(f func(ctx context.Context, d *draft)) part {
	return partFunc(func(_ context.Context, d *draft) (change, error) {
		return effect(func(ctx context.Context) { f(ctx, d) }), nil
	})
}

// install prepares all parts, then commits all, both in the order of the list.
// When one cannot be prepared, everything stays as it was.
func install(ctx context.Context, parts []part, d *draft, panics *task.Reporter) error {
	changes, err := prepare(ctx, parts, d, panics)
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx) // half a configuration is none
	for _, c := range changes {
		// A panic is logged and counted; the other parts still belong together.
		_ = panics.Contain(ctx, "reload", func() error { c.Commit(ctx); return nil })
	}
	return nil
}

// prepare prepares all parts. When one cannot be prepared, those before it are
// rolled back, the last one first. A panic in a part counts as its error.
func prepare(ctx context.Context, parts []part, d *draft, panics *task.Reporter) ([]change, error) {
	changes := make([]change, 0, len(parts))
	for _, p := range parts {
		var c change
		err := panics.Contain(ctx, "reload", func() (err error) {
			c, err = p.Prepare(ctx, d)
			return err
		})
		if c != nil {
			changes = append(changes, c)
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			rollback(ctx, changes, panics)
			return nil, err
		}
	}
	return changes, nil
}

// rollback gives up all changes, the last one first.
func rollback(ctx context.Context, changes []change, panics *task.Reporter) {
	ctx = context.WithoutCancel(ctx)
	for _, c := range slices.Backward(changes) {
		_ = panics.Contain(ctx, "reload", func() error { c.Rollback(ctx); return nil })
	}
}
