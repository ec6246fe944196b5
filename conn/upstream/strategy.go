package upstream

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"cleversocks/conn/dial"
)

// Strategy is how a pool chooses among the members that work.
type Strategy string

// The strategies. Ties go round.
const (
	RoundRobin       Strategy = "round_robin"
	Random           Strategy = "random"
	LeastConnections Strategy = "least_connections"
	Fastest          Strategy = "fastest" // by the smoothed time of a handshake
)

func (s Strategy) check() error {
	switch s {
	case RoundRobin, Random, LeastConnections, Fastest:
		return nil
	}
	return fmt.Errorf("strategy: %q: want round_robin, random, least_connections or fastest", s)
}

// start is where a request begins to look for a member. The next request
// begins one further, however many members this one tries.
func (p *Pool) start() uint64 {
	if p.strategy == Random {
		return rand.Uint64N(uint64(len(p.members))) //nolint:gosec // spreads load, keeps no secret
	}
	return p.turn.Add(1) - 1
}

// pick chooses a member that was not tried yet. When all are down one is
// tried all the same, and one only: better a slow failure than a certain one.
func (p *Pool) pick(session string, start uint64, tried []*member) *member {
	n := uint64(len(p.members))
	var best, fallback *member
	for i := range n {
		m := p.members[(start+i)%n]
		if slices.Contains(tried, m) {
			continue
		}
		if !m.usable() {
			if !m.isDrained() && (fallback == nil || session != "" && p.better(session, m, fallback)) {
				fallback = m
			}
			continue
		}
		if best == nil || p.better(session, m, best) {
			best = m
		}
	}
	if best == nil && len(tried) == 0 {
		return fallback
	}
	return best
}

// better reports whether a is to be preferred to b, the first one found: by the
// session's draw where there is a session, else by the strategy.
func (p *Pool) better(session string, a, b *member) bool {
	if session != "" {
		return dial.Weight(session, a.label) > dial.Weight(session, b.label)
	}
	switch p.strategy {
	case LeastConnections:
		return a.metrics.Active.Load() < b.metrics.Active.Load()
	case Fastest:
		return a.latency() < b.latency() // unknown is 0: tried first
	case RoundRobin, Random:
	}
	return false
}
