package supervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/thejerf/suture/v4"

	"cleversocks/authsvc"
	"cleversocks/conn/task"
	"cleversocks/supervisor/upgrade"
)

// elders are the predecessors that still drain. What their connections count is
// added here, and they follow what counts in all.
type elders struct {
	log    *slog.Logger
	panics *task.Reporter
	tree   *tree
	tables []authsvc.Table

	mu  sync.Mutex
	all []*elder
}

// elder is one predecessor, and the service that listens to it.
type elder struct {
	*upgrade.Predecessor
	of      *elders
	token   suture.ServiceToken
	tunnels atomic.Int64
}

// add listens to predecessors.
func (es *elders) add(all ...*upgrade.Predecessor) {
	for _, p := range all {
		e := &elder{Predecessor: p, of: es}
		e.token = es.tree.add(es.tree.core, e)
		es.mu.Lock()
		es.all = append(es.all, e)
		es.mu.Unlock()
	}
}

func (es *elders) list() []*elder {
	es.mu.Lock()
	defer es.mu.Unlock()
	return append([]*elder{}, es.all...)
}

// pause stops listening, between two messages, as a successor is going to.
func (es *elders) pause() {
	for _, e := range es.list() {
		// One that has ended meanwhile is none of the tree's.
		_ = es.tree.core.RemoveAndWait(e.token, coreTimeout)
	}
}

// resume listens again, as the successor has failed.
func (es *elders) resume() {
	for _, e := range es.list() {
		e.token = es.tree.add(es.tree.core, e)
	}
}

// leave leaves them to the successor.
func (es *elders) leave() {
	for _, e := range es.list() {
		es.gone(e)
	}
}

// connections is how many they have.
func (es *elders) connections() (n int) {
	for _, e := range es.list() {
		n += int(e.tunnels.Load())
	}
	return n
}

func (es *elders) gone(e *elder) {
	e.Close()
	es.mu.Lock()
	defer es.mu.Unlock()
	for i, other := range es.all {
		if other == e {
			es.all = append(es.all[:i:i], es.all[i+1:]...)
			return
		}
	}
}

// passing is their channels for a successor.
func (es *elders) passing() ([]upgrade.Passing, error) {
	var all []upgrade.Passing
	for _, e := range es.list() {
		p, err := e.Passing()
		if err != nil {
			upgrade.CloseAll(all)
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// reload has them judge their connections by the settings as they are now, and
// open their log files again: a service manager's signal comes here alone.
func (es *elders) reload() {
	for _, e := range es.list() {
		_ = e.Reload() // one that has ended has none
	}
}

// String names the service: there may be several.
func (e *elder) String() string { return "predecessor" }

// totalsInterval is how often predecessors hear what counts in all, if that has
// changed.
const totalsInterval = 100 * time.Millisecond

// Serve listens until the predecessor has ended, or ctx has.
func (e *elder) Serve(ctx context.Context) error {
	scope, ctx := task.New(ctx, e.of.panics, "predecessor")
	scope.Go(func() error {
		return e.Listen(ctx, upgrade.Heard{
			State:   func(s upgrade.State) error { return merge(e.of.tables, s) },
			Tunnels: func(n int) { e.tunnels.Store(int64(n)) },
		})
	})
	scope.Go(func() error { return e.tellTotals(ctx) })
	err := scope.Wait()
	if ctx.Err() != nil && !errors.Is(err, upgrade.ErrGone) {
		return err
	}
	e.of.log.LogAttrs(context.WithoutCancel(ctx), slog.LevelInfo, "the predecessor has ended", slog.Int("pid", e.Hello.PID))
	e.of.gone(e)
	return suture.ErrDoNotRestart
}

func (e *elder) tellTotals(ctx context.Context) error {
	tick := time.NewTicker(totalsInterval)
	defer tick.Stop()
	last := make(map[string][]byte)
	for {
		for _, t := range e.of.tables {
			if t.Totals == nil {
				continue
			}
			totals, err := json.Marshal(t.Totals())
			if err != nil || bytes.Equal(totals, last[t.Name]) {
				continue
			}
			if err := e.Tell(t.Name, json.RawMessage(totals)); err != nil {
				return err
			}
			last[t.Name] = totals
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// legacy tells the successor what this process still counts, while it drains.
// It ends behind the last connection.
type legacy struct {
	log       *slog.Logger
	panics    *task.Reporter
	successor *upgrade.Successor
	tables    []authsvc.Table
	active    func() int
	reload    func(context.Context)
}

// String names the service.
func (*legacy) String() string { return "legacy" }

// How often the successor is told: often while handshakes may be under way, in
// which somebody logs in, or fails to, and comes back to the successor.
const (
	newsSoon = 20 * time.Millisecond
	newsLate = 500 * time.Millisecond
	// newsShare bounds the share of a processor that looking for news takes.
	newsShare = 20
)

// Serve tells until ctx ends, and once more then.
func (l *legacy) Serve(ctx context.Context) error {
	defer l.successor.Close()
	scope, inner := task.New(ctx, l.panics, "legacy")
	scope.Go(func() error { return l.successor.Heed(inner, l.follow, func() { l.reload(inner) }) })
	scope.Go(func() error { return l.tell(inner) })
	if err := scope.Wait(); errors.Is(err, upgrade.ErrGone) && ctx.Err() == nil {
		l.log.LogAttrs(ctx, slog.LevelWarn, "the successor has ended; connections go on here", slog.Int("pid", l.successor.PID))
		return suture.ErrDoNotRestart
	}
	_ = l.news() // nobody is left to hear that it is
	return errors.Join(suture.ErrDoNotRestart, ctx.Err())
}

func (l *legacy) follow(s upgrade.State) error {
	for _, t := range l.tables {
		if t.Name == s.Table && t.Follow != nil {
			return t.Follow(s.Entries)
		}
	}
	return nil
}

func (l *legacy) tell(ctx context.Context) error {
	begun := time.Now()
	for {
		look := time.Now()
		if err := l.news(); err != nil {
			return err
		}
		pause := newsSoon
		if time.Since(begun) > time.Minute {
			pause = newsLate
		}
		timer := time.NewTimer(max(pause, newsShare*time.Since(look)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

func (l *legacy) news() error {
	for _, t := range l.tables {
		if err := l.successor.Tell(t.Name, t.News()); err != nil {
			return err
		}
	}
	return l.successor.TellTunnels(l.active())
}
