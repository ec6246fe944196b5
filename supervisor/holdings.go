package supervisor

import (
	"encoding/json"
	"net/netip"
	"sync"

	"cleversocks/aclsvc/ratelimit"
	"cleversocks/authsvc"
	"cleversocks/listener/tlsconf"
)

// What counts in all processes besides connections, as ratelimit.Holding.Of.
const (
	ofAssociations = "associations"
	ofBinds        = "binds"
)

// connectionRates has a successor know how far sources are ahead of limits.connection_rate.
// Nobody is let in by a process that drains, so there are no news.
func connectionRates(g *ratelimit.Gate) authsvc.Table {
	return authsvc.Table{
		Name: "connection rates",
		All:  func() any { return g.Debts() },
		News: func() any { return []ratelimit.Debt{} },
		Add: func(entries []byte) error {
			var list []ratelimit.Debt
			if err := json.Unmarshal(entries, &list); err != nil {
				return err
			}
			g.Owe(list)
			return nil
		},
	}
}

// ticketKeys has clients of TLS doors go on with the tickets that they have. There are
// no news: nobody gets one in a process that drains.
func ticketKeys(k *tlsconf.Keeper) authsvc.Table {
	return authsvc.Table{
		Name: "tls tickets",
		All:  func() any { return k.Tickets() },
		News: func() any { return []tlsconf.Secret{} },
		Add: func(entries []byte) error {
			var all []tlsconf.Secret
			if err := json.Unmarshal(entries, &all); err != nil {
				return err
			}
			return k.TakeTickets(all)
		},
	}
}

// seated is what is held here of the seats.
func (g *guards) seated() (all []ratelimit.Holding) {
	for of, seats := range g.seats {
		for _, h := range seats.Holdings() {
			h.Of = of
			all = append(all, h)
		}
	}
	return all
}

// report is what a process tells another generation of its connections.
type report struct {
	// PID is whose connections they are; 0: those of who tells.
	PID         int `json:"pid,omitempty"`
	Connections int `json:"connections"`
	Opening     int `json:"opening,omitempty"` // of them, which shake hands
	// Holdings are those that have changed since the last report. Whole says that
	// there was none, or another process has made it: all others are gone.
	Holdings []ratelimit.Holding `json:"holdings,omitempty"`
	Whole    bool                `json:"whole,omitempty"`
	// Demands are those of users' bandwidths, from one successor to the next.
	Demands []ratelimit.Demand `json:"demands,omitempty"`
}

// reportBatch is how many holdings travel in one message.
const reportBatch = 4096

// send sends the report, in several if it is long.
func (r report) send(by func(any) error) error {
	for left := r.Holdings; ; {
		n := min(len(left), reportBatch)
		r.Holdings = left[:n]
		if err := by(r); err != nil {
			return err
		}
		if left = left[n:]; len(left) == 0 {
			return nil
		}
		r.Whole, r.Demands = false, nil
	}
}

// heldKey is what a holding counts towards: a user's limits, or, without a
// user, a source's; of connections, or of one of the guards' seats.
type heldKey struct {
	of     string
	user   string
	source netip.Addr
}

func keyOfHolding(h ratelimit.Holding) heldKey { return heldKey{h.Of, string(h.User), h.Source} }

// changes remembers holdings that were told. The zero value has told none.
type changes struct{ told map[heldKey]ratelimit.Holding }

// of is what has changed, with those that are gone.
func (c *changes) of(now []ratelimit.Holding) []ratelimit.Holding {
	var changed []ratelimit.Holding
	sums := make(map[heldKey]ratelimit.Holding, len(now))
	for _, h := range now {
		key := keyOfHolding(h)
		h.Open += sums[key].Open
		sums[key] = h
	}
	for key, h := range sums {
		if c.told[key].Open != h.Open {
			changed = append(changed, h)
		}
	}
	for key, h := range c.told {
		if _, still := sums[key]; !still {
			h.Open = 0
			changed = append(changed, h)
		}
	}
	c.told = sums
	return changed
}

// foreign is what the connections of another process hold of the limits here.
type foreign struct {
	guards *guards

	mu    sync.Mutex
	held  map[heldKey]ratelimit.Holding
	wants demands // of users' bandwidths, by a successor
}

func newForeign(g *guards) *foreign {
	return &foreign{guards: g, held: make(map[heldKey]ratelimit.Holding), wants: make(demands)}
}

// take counts what a report says.
func (f *foreign) take(r report) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Whole {
		f.none()
	}
	for _, h := range r.Holdings {
		f.set(h)
	}
}

// none counts nothing any more. The caller holds the lock.
func (f *foreign) none() {
	for _, h := range f.held {
		h.Open = 0
		f.set(h)
	}
}

// set counts one. The caller holds the lock.
func (f *foreign) set(h ratelimit.Holding) {
	key := keyOfHolding(h)
	h.Open = max(h.Open, 0)
	delta := h.Open - f.held[key].Open
	if f.held[key] = h; h.Open == 0 {
		delete(f.held, key)
	}
	switch {
	case delta == 0:
	case key.of != "":
		if seats := f.guards.seats[key.of]; seats != nil { // else of a version that counts more
			seats.Elsewhere(key.user, h.Source, delta)
		}
	case key.user != "":
		f.guards.Users.Elsewhere(key.user, h.Source, delta)
	default:
		f.guards.Gate.Elsewhere(h.Source, delta)
	}
}

// clear counts none of it any more.
func (f *foreign) clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.none()
	f.guards.Users.Share(demands{}.since(&f.wants))
}

// leave leaves to the other process what it wants of users' bandwidths.
func (f *foreign) leave(m demandNews) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.Whole {
		f.guards.Users.Share(demands{}.since(&f.wants))
	}
	f.wants.take(m.Demands)
	f.guards.Users.Share(m.Demands)
}

// list is what is held, of everything or without sources' connections, which
// were admitted long ago.
func (f *foreign) list(asked bool) []ratelimit.Holding {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []ratelimit.Holding
	for key, h := range f.held {
		if key.of != "" || key.user != "" || !asked {
			all = append(all, h)
		}
	}
	return all
}
