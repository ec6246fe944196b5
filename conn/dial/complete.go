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
	egress = egress.Or(d.opts.Egress)
	name, err := firstAnswering(names, judge, func(name string) error { return telling(ctx, d.answers(ctx, name, egress)) })
	if err != nil {
		err = fmt.Errorf("search %s: %w", dest.Name, err)
		d.count(attempts{}, time.Since(start), err)
		return wire.Addr{}, err
	}
	return wire.Addr{Name: name, Port: dest.Port, Absolute: true}, nil
}

// CompleteNow is Complete as far as nobody has to be waited for: the error is
// ErrWaits, then, and nothing is counted.
func (d *Dialer) CompleteNow(dest wire.Addr, egress Egress, judge func(name string) error) (wire.Addr, error) {
	names := d.search(dest)
	if len(names) == 0 {
		return dest, nil
	}
	egress = egress.Or(d.opts.Egress)
	name, err := firstAnswering(names, judge, func(name string) error { return d.remembers(name, egress) })
	switch {
	case errors.Is(err, ErrWaits):
		return dest, err
	case err != nil:
		return dest, ErrWaits // Complete says and counts it
	}
	return wire.Addr{Name: name, Port: dest.Port, Absolute: true}, nil
}

// remembers is answers from memory.
func (d *Dialer) remembers(name string, egress Egress) error {
	families := d.families(egress)
	if d.opts.Known == nil || len(families) == 0 {
		return ErrWaits
	}
	heard, known := d.opts.Known(name, families)
	if !known {
		return ErrWaits
	}
	var failure error
	for _, a := range heard[:len(families)] {
		if a.Err == nil {
			return nil
		}
		failure = worse(failure, a.Err)
	}
	return failure
}

// firstAnswering is the first of the names that has an address. A name that
// does not exist, or whose servers fail, makes place for the next one. Silence
// ends the search: the name that was meant may be the one that is not heard of.
func firstAnswering(names []string, judge, answers func(name string) error) (string, error) {
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
		err := answers(name)
		switch {
		case err == nil:
			return name, nil
		case errors.Is(err, resolver.ErrServers), errors.Is(err, resolver.ErrNotFound):
			failure = worse(failure, err)
		default:
			return "", err
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
	carries := func(f resolver.Family) bool { return d.opts.Family.allows(f) && egress.carries(f) }
	switch six, four := carries(resolver.IPv6), carries(resolver.IPv4); {
	case six && four:
		return bothFamilies[:]
	case six:
		return bothFamilies[:1]
	case four:
		return bothFamilies[1:]
	}
	return nil
}

var bothFamilies = [...]resolver.Family{resolver.IPv6, resolver.IPv4}
