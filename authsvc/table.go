package authsvc

import (
	"encoding/json"
	"hash/maphash"

	"cleversocks/metrics"
)

// Table is what one process passes on to its successor in an upgrade. Entries
// are lists, as JSON has them. All and News are for one goroutine.
type Table struct {
	Name string
	// All is everything; News is what has come since the last call of either.
	All, News func() any
	// Add merges what a predecessor tells. It may come twice.
	Add func(entries []byte) error
	// Totals is what counts in all, for predecessors whose connections count
	// towards it, and Follow takes it. Nil: they need not know.
	Totals func() any
	Follow func(entries []byte) error

	file *stateFile // nil: it is not saved
}

// Yield leaves saving to the successor, from its return on.
func (t Table) Yield() {
	if t.file != nil {
		t.file.setElsewhere(true)
	}
}

// Keep takes saving over: from a predecessor that has passed everything on, or
// back, from a successor that has failed.
func (t Table) Keep() {
	if t.file == nil {
		return
	}
	t.file.mu.Lock()
	t.file.elsewhere = false
	t.file.settled = true // the predecessor had read what was on disk
	t.file.mu.Unlock()
	t.file.dirty.Store(true)
}

// Recover takes saving over from a predecessor that has ended and passed nothing on:
// what it had saved is read.
func (t Table) Recover() {
	if t.file == nil {
		return
	}
	t.file.setElsewhere(false)
	t.file.settle()
}

func (s *stateFile) setElsewhere(is bool) {
	s.mu.Lock() // a file that is being written is written
	defer s.mu.Unlock()
	s.elsewhere = is
}

// newTable is a table whose entries change as a whole, or not at all.
func newTable(file *stateFile, dump func() any) Table {
	told := &told{seed: maphash.MakeSeed()}
	return Table{
		Name: file.kind, Add: file.restore, file: file,
		All:  func() any { told.hashes = map[uint64]struct{}{}; return told.news(dump()) },
		News: func() any { return told.news(dump()) },
	}
}

// told remembers entries that were passed on, by their hash.
type told struct {
	seed   maphash.Seed
	hashes map[uint64]struct{}
}

// news is what of a list was not passed on yet.
func (t *told) news(list any) []json.RawMessage {
	out := []json.RawMessage{}
	raw, err := json.Marshal(list)
	if err != nil {
		return out // as nothing could be saved either, which was reported
	}
	var entries []json.RawMessage
	if json.Unmarshal(raw, &entries) != nil {
		return out
	}
	now := make(map[uint64]struct{}, len(entries)) // what has gone needs no memory
	for _, e := range entries {
		hash := maphash.Bytes(t.seed, e)
		if _, known := t.hashes[hash]; !known {
			out = append(out, e)
		}
		now[hash] = struct{}{}
	}
	t.hashes = now
	return out
}

// Table is the auth-once table for a successor.
func (t *Once) Table() Table { return newTable(&t.file, t.file.dump) }

// Table is the bans and the failures for a successor.
func (t *Throttle) Table() Table {
	return newTable(&t.file, func() any { return t.passed() })
}

// Table is the kept table for a successor.
func (k *Keeper) Table() Table { return newTable(&k.file, k.file.dump) }

// Table is the counts for a successor. What connections of a predecessor still
// move is added to them, and those follow what counts in all.
func (q *Quotas) Table() Table {
	return Table{
		Name: metrics.StateQuotas, Add: q.restore, Follow: q.follow, file: &q.file,
		All:    func() any { return q.list(true) },
		News:   func() any { return q.untold() },
		Totals: func() any { return q.saved() },
	}
}

// untold is what was moved since the last call.
func (q *Quotas) untold() []savedUsage {
	out := []savedUsage{}
	q.mu.Lock()
	defer q.mu.Unlock()
	for name, u := range q.users {
		u.mu.Lock()
		if u.untold > 0 {
			out = append(out, savedUsage{[]byte(name), u.start, u.untold, u.period})
			u.untold = 0
		}
		u.mu.Unlock()
	}
	return out
}

// follow takes what a successor has counted in all. What was moved here and it
// does not know yet comes on top.
func (q *Quotas) follow(entries []byte) error {
	var list []savedUsage
	if err := json.Unmarshal(entries, &list); err != nil {
		return err
	}
	for _, e := range list {
		u := q.usage(string(e.User))
		u.mu.Lock()
		u.start, u.used = e.Start, e.Used+u.untold
		u.mu.Unlock()
	}
	return nil
}
