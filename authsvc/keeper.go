package authsvc

import "context"

// Keeper keeps a table of another package over restarts, as this package's
// own are kept. It is a service.
type Keeper struct {
	kind  string
	file  stateFile
	sweep func()
}

// NewKeeper reads what was saved under kind, one of metrics.State*. restore
// merges it into the table, and changes nothing when it fails; dump is what to
// save, as JSON has it; sweep is called every few seconds.
func NewKeeper(kind string, s StateOptions, restore func([]byte) error, dump func() any, sweep func()) *Keeper {
	k := &Keeper{kind: kind, file: newStateFile(s, kind), sweep: sweep}
	k.file.restore, k.file.dump = restore, dump
	k.file.settle()
	return k
}

// Changed says that the table has to be saved.
func (k *Keeper) Changed() { k.file.dirty.Store(true) }

// Serve saves until ctx ends, and once more then.
func (k *Keeper) Serve(ctx context.Context) error { return serveState(ctx, &k.file, k.sweep) }

// String names the service.
func (k *Keeper) String() string { return "state of " + k.kind }
