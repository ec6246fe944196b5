package dial

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"cleversocks/conn/task"
	"cleversocks/conn/wire"
	"cleversocks/resolver"
)

// Searches reports whether a search list makes other names of a destination's.
func (d *Dialer) Searches(dest wire.Addr) bool { return len(d.search(dest)) > 0 }

// search is the complete names that a destination's name stands for; none: it
// is complete.
func (d *Dialer) search(dest wire.Addr) []string {
	if !dest.IsName() || dest.Absolute || d.opts.Search == nil || d.opts.Lookup == nil {
		return nil
	}
	return d.opts.Search(dest.Name)
}

// Complete finds the name that answers for a destination whose name is
// relative, by the system's search list (resolv.conf(5)), and returns the
// destination with it, Absolute. A destination that is complete comes back as
// it is and nobody is asked.
//
// judge is asked about each name before any server hears of it: one that it
// refuses is passed over, as if it were not on the list. When no other one
// answers, the first refusal is the error. Nil: all may be asked for.
func (d *Dialer) Complete(ctx context.Context, dest wire.Addr, egress Egress, judge func(name string) error) (wire.Addr, error) {
	names := d.search(dest)
	if len(names) == 0 {
		return dest, nil
	}
	start := time.Now()
	if d.opts.ConnectTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.opts.ConnectTimeout)
		defer cancel()
	}
	name, err := d.firstAnswering(ctx, names, egress.Or(d.opts.Egress), judge)
	if err != nil {
		err = fmt.Errorf("search %s: %w", dest.Name, err)
		d.count(attempts{}, time.Since(start), err)
		return wire.Addr{}, err
	}
	return wire.Addr{Name: name, Port: dest.Port, Absolute: true}, nil
}

// firstAnswering is the first of the names that has an address. A name that
// does not exist, or whose servers fail, makes place for the next one. Silence
// ends the search: the name that was meant may be the one that is not heard of.
func (d *Dialer) firstAnswering(ctx context.Context, names []string, egress Egress, judge func(string) error) (string, error) {
	var refusal, failure error
	for _, name := range names {
		if judge != nil {
			if err := judge(name); err != nil {
				if refusal == nil {
					refusal = err
				}
				continue
			}
		}
		err := d.answers(ctx, name, egress)
		switch {
		case err == nil:
			return name, nil
		case errors.Is(err, resolver.ErrServers), errors.Is(err, resolver.ErrNotFound):
			failure = worse(failure, err)
		default:
			return "", telling(ctx, err)
		}
	}
	if refusal != nil {
		return "", refusal
	}
	return "", failure
}

// answers is nil when a name has an address of any family in use. It asks for
// all of them at once and returns with the first address; that the name does not
// exist must be said of each, since some servers say so of a name that has
// addresses of the other family (RFC 4074 §4.2).
func (d *Dialer) answers(ctx context.Context, name string, egress Egress) error {
	families := d.families(egress)
	if len(families) == 0 {
		return fmt.Errorf("%w: no source address for the families in use", ErrNoUsableAddress)
	}
	scope, ctx := task.New(ctx, d.opts.Panics, "look-up")
	heard := make(chan error, len(families)) // nobody waits to be heard
	for _, family := range families {
		scope.Go(func() error {
			_, err := d.lookup(ctx, name, family)
			heard <- err
			return nil
		})
	}
	var failure error
	for range families {
		err := <-heard
		if err == nil {
			failure = nil
			break
		}
		failure = worse(failure, err)
	}
	scope.Cancel(context.Canceled)
	_ = scope.Wait() // look-ups end with their context
	return failure
}

// lookup is Options.Lookup. A panic fails it alone.
func (d *Dialer) lookup(ctx context.Context, name string, family resolver.Family) (addrs []netip.Addr, err error) {
	err = d.opts.Panics.Contain(ctx, "look-up", func() (err error) {
		addrs, err = d.opts.Lookup(ctx, name, family)
		return err
	})
	if _, panicked := errors.AsType[*task.PanicError](err); panicked {
		err = fmt.Errorf("%w: %w", resolver.ErrServers, err)
	}
	return addrs, err
}

// families are those that are asked for and dialed.
func (d *Dialer) families(egress Egress) []resolver.Family {
	var in []resolver.Family
	for _, family := range [...]resolver.Family{resolver.IPv6, resolver.IPv4} {
		if d.opts.Family.allows(family) && egress.carries(family) {
			in = append(in, family)
		}
	}
	return in
}
