package tlsconf

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"golang.org/x/crypto/acme/autocert"
)

// watchEvery is how often the files are looked at: a stat call for each.
const watchEvery = 2 * time.Second

// Keeper is the service of all TLS doors: it reads their files again when they
// change, and changes the keys of the session tickets that they share.
type Keeper struct {
	log     *slog.Logger
	tickets *tickets

	mu       sync.Mutex
	doors    map[*Door]fileStates // and what was complained of; nil: nothing
	managers map[string]*autocert.Manager
}

// NewKeeper makes a keeper without doors.
func NewKeeper(log *slog.Logger) *Keeper {
	return &Keeper{log: log, tickets: newTickets(), doors: make(map[*Door]fileStates), managers: make(map[string]*autocert.Manager)}
}

// String names the service.
func (k *Keeper) String() string { return "tls keeper" }

// Serve watches until ctx ends. Doors may come and go meanwhile.
func (k *Keeper) Serve(ctx context.Context) error {
	look, rotate := time.NewTicker(watchEvery), time.NewTicker(ticketLife)
	defer look.Stop()
	defer rotate.Stop()
	for {
		select {
		case <-look.C:
			k.look(ctx)
		case <-rotate.C:
			k.tickets.rotate()
		case <-ctx.Done():
			return ctx.Err()
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
	return nil
}
