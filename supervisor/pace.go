package supervisor

import (
	"context"
	"time"
)

// pace is how long to wait between two looks at what may have changed: longer
// from one to the next while nothing has, so that many processes which drain for
// days cost next to nothing.
type pace struct {
	least, most time.Duration
	wake        <-chan struct{} // ends a wait that is longer than least; nil: nothing does
	now         time.Duration
}

// lookShare bounds the share of a processor that looking takes.
const lookShare = 20

// wait waits after a look that has found something, or has not, and took so
// long. The error is that of ctx.
func (p *pace) wait(ctx context.Context, found bool, took time.Duration) error {
	if p.now = min(2*p.now, p.most); found || p.now == 0 {
		p.now = p.least
	}
	least := max(p.least, lookShare*took)
	if err := pause(ctx, least, nil); err != nil {
		return err
	}
	return pause(ctx, p.now-least, p.wake)
}

// pause waits for a time, if it is more than 0, or until wake gets a value.
func pause(ctx context.Context, d time.Duration, wake <-chan struct{}) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}
