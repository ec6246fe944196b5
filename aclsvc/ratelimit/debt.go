package ratelimit

import (
	"math"
	"net/netip"
	"time"

	"cleversocks/conn/netaddr"
)

// Debt is how far ahead of its rate a source has connected. A process that takes
// over from another one takes the debts over too: an upgrade gives nobody a new
// burst.
type Debt struct {
	Source netip.Addr `json:"source"` // an netaddr.SourceKey
	Ahead  float64    `json:"ahead"`  // in connections, whose time may have another rate
}

// Debts are those of all sources that owe anything, MaxSources at most.
func (g *Gate) Debts() []Debt {
	all := []Debt{}
	spacing := g.settings.Load().spacing
	if spacing == 0 {
		return all
	}
	for i := range g.shards {
		s := &g.shards[i]
		s.mu.Lock()
		now := int64(time.Since(g.begin))
		for source, due := range s.due {
			if due > now {
				all = append(all, Debt{source, float64(due-now) / float64(spacing)})
			}
		}
		s.mu.Unlock()
	}
	return all
}

// Owe takes debts over that another process has kept. The settings of here bound
// them: nobody owes more than a source can.
func (g *Gate) Owe(debts []Debt) {
	settings := g.settings.Load()
	if settings.spacing == 0 {
		return
	}
	most := settings.tolerance + settings.spacing
	for _, d := range debts {
		key := netaddr.SourceKey(d.Source)
		s := g.shard(key)
		s.mu.Lock()
		now := int64(time.Since(g.begin))
		ahead := min(d.Ahead*float64(settings.spacing), float64(most))
		if due := now + int64(math.Round(ahead)); due > max(s.due[key], now) {
			s.set(key, due, now, settings)
		}
		s.mu.Unlock()
	}
}
