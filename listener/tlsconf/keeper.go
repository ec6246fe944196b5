package tlsconf

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"cleversocks/conn/task"
)

// watchEvery is how often the files are looked at: a stat call for each.
const watchEvery = 2 * time.Second

// Keeper is the service of all TLS doors: it reads their files again when they
// change, and changes the keys of the session tickets that they share.
type Keeper struct {
	log     *slog.Logger
	panics  *task.Reporter
	expires func(listener, what string, until time.Time)
	changed func()
	tickets *tickets

	mu        sync.Mutex
	doors     map[*Door]fileStates // and what was complained of; nil: nothing
	issuers   map[string]*issuer
	published map[date]struct{} // what expires has been told of
}

// KeeperOptions is what a Keeper needs.
type KeeperOptions struct {
	Log    *slog.Logger
	Panics *task.Reporter
	// Expires hears, again and again, until when a listener's "certificate",
	// "client_ca" or "crl" is good; the zero time: it is there no more, or good for
	// ever. Nil: nobody does.
	Expires func(listener, what string, until time.Time)
	// Changed hears of files that were read again because they have changed, once
	// they are in force. Nil: nobody does.
	Changed func()
}

// NewKeeper makes a keeper without doors.
func NewKeeper(o KeeperOptions) *Keeper {
	if o.Expires == nil {
		o.Expires = func(string, string, time.Time) {}
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	return &Keeper{
		log: o.Log, panics: o.Panics, expires: o.Expires, changed: o.Changed, tickets: newTickets(),
		doors: make(map[*Door]fileStates), issuers: make(map[string]*issuer),
	}
}

// String names the service.
func (k *Keeper) String() string { return "tls keeper" }

// Serve watches until ctx ends. Doors may come and go meanwhile.
func (k *Keeper) Serve(ctx context.Context) error {
	look, rotate := time.NewTicker(watchEvery), time.NewTimer(k.tickets.left())
	defer look.Stop()
	defer rotate.Stop()
	for {
		k.visit(ctx)
		k.tell(ctx)
		select {
		case <-look.C:
			k.look(ctx)
		case <-rotate.C:
			k.tickets.rotate()
			rotate.Reset(k.tickets.left())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Tickets are the keys of session tickets, for a successor: its clients need no whole
// handshake, all at once.
func (k *Keeper) Tickets() []Secret { return k.tickets.list() }

// TakeTickets takes a predecessor's, before anybody has one of this keeper's.
func (k *Keeper) TakeTickets(all []Secret) error { return k.tickets.restore(all) }

// visit has every issuer of a door look after its certificates. Nobody waits for
// that: an ACME server may take minutes, and the end of the program may not.
func (k *Keeper) visit(ctx context.Context) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for d := range k.doors {
		if i := d.issuer; i != nil && i.busy.CompareAndSwap(false, true) {
			scope, ctx := task.New(context.WithoutCancel(ctx), k.panics, "acme")
			scope.Go(func() error {
				i.visit(ctx)
				return nil
			})
		}
	}
}

func (k *Keeper) add(d *Door) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.doors[d] = nil
}

func (k *Keeper) remove(d *Door) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.doors, d)
}

// look looks at every door's files once.
func (k *Keeper) look(ctx context.Context) {
	k.mu.Lock()
	doors := maps.Clone(k.doors)
	k.mu.Unlock()
	for d, complained := range doors {
		complained = k.lookAt(ctx, d, complained)
		k.mu.Lock()
		if _, still := k.doors[d]; still {
			k.doors[d] = complained
		}
		k.mu.Unlock()
	}
}

// lookAt reads a door's files again if they changed. A certificate that does
// not fit its key, as between the two being replaced, is tried again at the next
// look; the old pair stays in force until then. It returns the state of the
// files that was complained of.
func (k *Keeper) lookAt(ctx context.Context, d *Door, complained fileStates) fileStates {
	now := d.options.stat()
	if now.same(d.current.Load().files) {
		return nil
	}
	change, err := d.Prepare()
	if err != nil {
		if complained == nil || !now.same(complained) {
			k.log.LogAttrs(ctx, slog.LevelWarn, "TLS files changed and cannot be used; the old ones stay",
				slog.String("listener", d.options.Name), slog.Any("err", err))
		}
		return now
	}
	change.Commit()
	k.log.LogAttrs(ctx, slog.LevelInfo, "TLS files read again", slog.String("listener", d.options.Name))
	k.changed()
	return nil
}
