package supervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/thejerf/suture/v4"

	"cleversocks/aclsvc/ratelimit"
	"cleversocks/authsvc"
	"cleversocks/conn/task"
	"cleversocks/metrics/admin"
	"cleversocks/supervisor/config"
	"cleversocks/supervisor/upgrade"
)

// predecessors are the processes of before upgrades that still drain. What
// their connections count is added here, and they follow what counts in all.
type predecessors struct {
	log    *slog.Logger
	panics *task.Reporter
	tree   *tree
	guards *guards
	handOn func(pid int, events json.RawMessage) error // to who follows events

	changed  func()                // is told when they have more connections, or fewer
	settings func() *config.Config // in force

	following sync.Mutex // who tells the settings last tells those in force

	mu    sync.Mutex
	all   []*predecessor
	total atomic.Int64 // connections of all of them
	// sharing is the service of their and our bandwidths.
	sharing suture.ServiceToken
}

// predecessor is one of them, and the service that listens to it.
type predecessor struct {
	*upgrade.Predecessor
	of    *predecessors
	token suture.ServiceToken
	holds *foreign      // what its connections hold of the limits
	gone  chan struct{} // closed when it has ended
	wants demands       // of users' bandwidths; the lock of predecessors guards it
	told  demands       // what all others want, as the service shares has told it

	connections atomic.Int64
	opening     atomic.Int64 // of them, which shake hands
}

// meet takes predecessors in. Nobody listens to them until listen.
func (ps *predecessors) meet(all ...*upgrade.Predecessor) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, p := range all {
		ps.all = append(ps.all, &predecessor{Predecessor: p, of: ps, holds: newForeign(ps.guards), wants: make(demands), gone: make(chan struct{})})
	}
}

// listen listens to all of them, from the start on or again, as a successor has
// failed.
func (ps *predecessors) listen() {
	all := ps.list()
	for _, p := range all {
		p.told = nil // a successor may have told it other things, and failed
		p.token = ps.tree.add(ps.tree.core, p)
	}
	if len(all) > 0 {
		ps.sharing = ps.tree.add(ps.tree.core, shares{ps})
	}
}

// latest is the one that was met last.
func (ps *predecessors) latest() *predecessor {
	all := ps.list()
	return all[len(all)-1]
}

func (ps *predecessors) list() []*predecessor {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return slices.Clone(ps.all)
}

// pause stops listening, between two messages, as a successor is going to.
func (ps *predecessors) pause() {
	for _, p := range ps.list() {
		// One that has ended meanwhile is none of the tree's.
		_ = ps.tree.core.RemoveAndWait(p.token, coreTimeout)
	}
	_ = ps.tree.core.RemoveAndWait(ps.sharing, coreTimeout) // it may have ended
}

// leave leaves them to the successor.
func (ps *predecessors) leave() {
	for _, p := range ps.list() {
		ps.gone(p)
	}
}

// connections is how many they have.
func (ps *predecessors) connections() int { return int(ps.total.Load()) }

func (ps *predecessors) gone(p *predecessor) {
	p.Close()
	ps.mu.Lock()
	if slices.Contains(ps.all, p) {
		close(p.gone)
	}
	ps.all = slices.DeleteFunc(slices.Clone(ps.all), func(other *predecessor) bool { return other == p })
	ps.mu.Unlock()
	p.count(0, 0)
	p.holds.clear()
}

// count takes how many connections it has.
func (p *predecessor) count(connections, opening int) {
	more := int64(connections) - p.connections.Swap(int64(connections))
	p.of.total.Add(more)
	p.opening.Store(int64(opening))
	if more != 0 {
		p.of.changed()
	}
}

// passing is their channels for a successor, without those of predecessors that
// have ended at this moment.
func (ps *predecessors) passing() ([]upgrade.Passing, error) {
	var all []upgrade.Passing
	for _, p := range ps.list() {
		one, err := p.Passing()
		if errors.Is(err, upgrade.ErrGone) {
			continue
		}
		if err != nil {
			upgrade.CloseAll(all)
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// reports are what a successor has to know of each, from its first connection
// on.
func (ps *predecessors) reports() []report {
	var all []report
	for _, p := range ps.list() {
		ps.mu.Lock()
		wants := slices.Collect(maps.Values(p.wants))
		ps.mu.Unlock()
		all = append(all, report{
			PID: p.Hello.PID, Connections: int(p.connections.Load()), Opening: int(p.opening.Load()), Holdings: p.holds.list(false), Demands: wants,
		})
	}
	return all
}

// reload has them open their log files again, as a service manager's signal comes
// here alone; and, unless the settings were refused here, judge their connections
// by those.
func (ps *predecessors) reload(follow bool) {
	ps.following.Lock()
	defer ps.following.Unlock()
	for _, p := range ps.list() {
		tell := p.Rotate
		if follow {
			tell = func() error { return p.Reload(ps.verified()) }
		}
		_ = tell() // one that has ended has none
	}
}

// verified are the settings in force for those who go on by them.
func (ps *predecessors) verified() upgrade.Settings {
	return upgrade.Settings{Text: ps.settings().Text()}
}

// follow has them judge their connections by the settings in force, and the files that
// those name, and tells how many that has ended.
func (ps *predecessors) follow(ctx context.Context) (ended int) {
	return ps.end(ctx, askFollow, ps.verified())
}

// stop has them end what they have, as the daemon stops: nobody else would reach it
// any more.
func (ps *predecessors) stop() {
	for _, p := range ps.list() {
		_ = p.Stop() // one that has ended is none
	}
}

// await waits for their ends, whose last words count here, or for that of ctx.
func (ps *predecessors) await(ctx context.Context) {
	for _, p := range ps.list() {
		select {
		case <-p.gone:
		case <-ctx.Done():
			ps.log.LogAttrs(ctx, slog.LevelWarn, "a predecessor has not ended in time", slog.Int("pid", p.Hello.PID))
		}
	}
}

// answerTimeout is how long a question to predecessors may take.
const answerTimeout = 2 * time.Second

// ask asks all of them at a time, and gives each part of their answers to take,
// one after the other. One that does not answer in time is left out.
func (ps *predecessors) ask(ctx context.Context, what string, body any, take func(p *predecessor, part json.RawMessage) error) {
	all := ps.list()
	if len(all) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var mu sync.Mutex
	scope, _ := task.New(ctx, ps.panics, "predecessor")
	for _, p := range all {
		scope.Go(func() error {
			err := p.Ask(ctx, what, body, func(part json.RawMessage) error {
				mu.Lock()
				defer mu.Unlock()
				return take(p, part)
			})
			if err != nil && !errors.Is(err, upgrade.ErrGone) {
				ps.log.LogAttrs(ctx, slog.LevelDebug, "a predecessor did not answer", slog.Int("pid", p.Hello.PID), slog.String("question", what), slog.Any("err", err))
			}
			return nil // the others answer all the same
		})
	}
	_ = scope.Wait() // nothing is left to say
}

// sessions are their connections that match.
func (ps *predecessors) sessions(ctx context.Context, f admin.SessionFilter) (all []admin.Session) {
	ps.ask(ctx, askSessions, f, func(p *predecessor, raw json.RawMessage) error {
		var part []admin.Session
		if err := json.Unmarshal(raw, &part); err != nil {
			return err
		}
		for _, s := range part {
			s.Process = p.Hello.PID
			all = append(all, s)
		}
		return nil
	})
	return all
}

// end has them end connections, as what and body say, and tells how many those are.
func (ps *predecessors) end(ctx context.Context, what string, body any) (n int) {
	ps.ask(ctx, what, body, func(_ *predecessor, raw json.RawMessage) error {
		var closed admin.Closed
		err := json.Unmarshal(raw, &closed)
		n += closed.Closed
		return err
	})
	return n
}

// heard is what is done with what p tells.
func (ps *predecessors) heard(p *predecessor) upgrade.Heard {
	return upgrade.Heard{
		State:  func(s upgrade.State) error { return merge(ps.guards.tables, s) },
		Report: func(raw json.RawMessage) error { return ps.reported(p, raw) },
		Share:  func(raw json.RawMessage) error { return ps.wanted(p, raw) },
		Events: func(raw json.RawMessage) error { return ps.handOn(p.Hello.PID, raw) },
	}
}

// reported takes a report of p, which may be about one of before it.
func (ps *predecessors) reported(p *predecessor, raw json.RawMessage) error {
	var r report
	if err := json.Unmarshal(raw, &r); err != nil {
		return err
	}
	if r.PID != 0 {
		i := slices.IndexFunc(ps.list(), func(one *predecessor) bool { return one.Hello.PID == r.PID })
		if i < 0 {
			return nil // it has ended meanwhile
		}
		p = ps.list()[i]
	}
	p.count(r.Connections, r.Opening)
	p.holds.take(r)
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p.wants.take(r.Demands)
	return nil
}

// String names the service: there may be several.
func (p *predecessor) String() string { return "predecessor" }

// Serve listens until the predecessor has ended, or ctx has.
func (p *predecessor) Serve(ctx context.Context) error {
	scope, ctx := task.New(ctx, p.of.panics, "predecessor")
	scope.Go(func() error { return p.Listen(ctx, p.of.heard(p)) })
	scope.Go(func() error {
		if err := p.tellTotals(ctx); !errors.Is(err, upgrade.ErrGone) {
			return err
		}
		return nil // it may have said something before it went, which is still to be heard
	})
	err := scope.Wait()
	if ctx.Err() != nil && !errors.Is(err, upgrade.ErrGone) {
		return err
	}
	p.of.log.LogAttrs(context.WithoutCancel(ctx), slog.LevelInfo, "the predecessor has ended", slog.Int("pid", p.Hello.PID))
	p.of.gone(p)
	return suture.ErrDoNotRestart
}

// tellTotals tells what counts in all. A successor that goes on in the place of
// another tells everything anew.
func (p *predecessor) tellTotals(ctx context.Context) error {
	last := make(map[string][]byte)
	var elsewhere changes
	every := pace{least: 100 * time.Millisecond, most: 400 * time.Millisecond}
	for {
		look, told := time.Now(), false
		for _, t := range p.of.guards.tables {
			news, err := p.tellTable(t, last)
			if err != nil {
				return err
			}
			told = told || news
		}
		opening := p.opening.Load() > 0
		if opening { // else nothing of it asks a limit any more
			first := elsewhere.told == nil
			if changed := elsewhere.of(p.of.elsewhere(p)); first || len(changed) > 0 {
				if err := (report{Holdings: changed, Whole: first}).send(p.Report); err != nil {
					return err
				}
			}
		}
		if err := every.wait(ctx, told || opening, time.Since(look)); err != nil {
			return err
		}
	}
}

// tellTable tells what a table has in all, unless that is as the last time.
func (p *predecessor) tellTable(t authsvc.Table, last map[string][]byte) (told bool, err error) {
	if t.Totals == nil {
		return false, nil
	}
	totals, err := json.Marshal(t.Totals())
	if err != nil || bytes.Equal(totals, last[t.Name]) {
		return false, nil //nolint:nilerr // what cannot be marshalled cannot be saved either, which was reported
	}
	last[t.Name] = totals
	return true, p.Tell(t.Name, json.RawMessage(totals))
}

// elsewhere is what other processes than p hold of limits that requests meet.
func (ps *predecessors) elsewhere(p *predecessor) []ratelimit.Holding {
	all := append(ps.guards.Users.Holdings(true), ps.guards.seated()...)
	for _, other := range ps.list() {
		if other != p {
			all = append(all, other.holds.list(true)...)
		}
	}
	return all
}
