// Package shortage says in the log which limits are reached and which queues
// overflow: at once, and then once a minute for as long as it goes on, with how
// often since. What reaches a limit only counts, as it does for the metrics.
//
//	watch := shortage.New(log, []shortage.Limit{{Name: "limits.max_connections", Count: refused.Get, Figure: limit}})
//	supervisor.Add(watch)
package shortage

import (
	"context"
	"log/slog"
	"time"
)

const (
	lookEvery = time.Second // a look reads some atomics
	sayEvery  = time.Minute
)

// Limit is a bound, and how often somebody met it.
type Limit struct {
	Name   string        // the setting, or what overflows
	Effect string        // what becomes of those beyond it
	Normal bool          // no reason to warn: it is said all the same
	Count  func() uint64 // only grows
	Figure func() int64  // the bound in force; nil: it has none that is one number
}

// Watch is the service that looks at limits.
type Watch struct {
	log    *slog.Logger
	limits []watched
}

type watched struct {
	Limit
	told   uint64    // of Count
	toldAt time.Time // zero: never
}

// New makes the service. What was counted before it is told too.
func New(log *slog.Logger, limits []Limit) *Watch {
	w := &Watch{log: log}
	for _, l := range limits {
		w.limits = append(w.limits, watched{Limit: l})
	}
	return w
}

// String names the service.
func (w *Watch) String() string { return "shortage watch" }

// Serve looks until ctx ends, and then a last time.
func (w *Watch) Serve(ctx context.Context) error {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			w.look(ctx)
		case <-ctx.Done():
			w.look(ctx)
			return ctx.Err()
		}
	}
}

// look says what has been reached and was not said in the last minute.
func (w *Watch) look(ctx context.Context) {
	now := time.Now()
	for i := range w.limits {
		l := &w.limits[i]
		n := l.Count()
		if n == l.told || !l.toldAt.IsZero() && now.Sub(l.toldAt) < sayEvery {
			continue
		}
		attrs := []slog.Attr{slog.String("limit", l.Name), slog.String("effect", l.Effect), slog.Uint64("times", n-l.told)}
		if l.Figure != nil {
			attrs = append(attrs, slog.Int64("figure", l.Figure()))
		}
		level := slog.LevelWarn
		if l.Normal {
			level = slog.LevelInfo
		}
		w.log.LogAttrs(ctx, level, "limit reached", attrs...)
		l.told, l.toldAt = n, now
	}
}
