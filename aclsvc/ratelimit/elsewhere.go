package ratelimit

import "net/netip"

// Holding is how many connections are open that count towards a limit: those of
// a user from a source, or, without a user, all of a source. While a daemon is
// upgraded, several processes have connections, and each counts the others'.
type Holding struct {
	Of     string     `json:"of,omitempty"`   // of which Seats; "": connections
	User   []byte     `json:"user,omitempty"` // base64: names are bytes; nil: of the source
	Source netip.Addr `json:"source"`         // an netaddr.SourceKey; invalid: a unix socket
	Open   int        `json:"open"`           // 0: there are none any more
}

// Holdings are the connections that the gate has admitted, by source. Those of
// other processes are not among them.
func (g *Gate) Holdings() []Holding {
	var all []Holding
	for i := range g.shards {
		s := &g.shards[i]
		s.mu.Lock()
		for source, n := range s.open {
			all = append(all, Holding{Source: source, Open: n})
		}
		s.mu.Unlock()
	}
	return all
}

// Elsewhere counts delta more connections of a source, an netaddr.SourceKey,
// that another process has.
func (g *Gate) Elsewhere(source netip.Addr, delta int) {
	s := g.shard(source)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.elsewhere == nil {
		s.elsewhere = make(map[netip.Addr]int)
	}
	add(s.elsewhere, source, delta)
}

// Holdings are the connections that users have here, by their sources. With
// limited they are those of users who may not have any number of them.
func (t *Users) Holdings(limited bool) []Holding {
	var all []Holding
	for _, u := range t.list() {
		u.mu.Lock()
		if !limited || u.most > 0 || u.wide > 0 {
			for source, n := range u.from {
				all = append(all, Holding{User: []byte(u.name), Source: source, Open: n})
			}
		}
		u.mu.Unlock()
	}
	return all
}

// Elsewhere counts delta more connections of a user from a source, an
// netaddr.SourceKey, that another process has.
func (t *Users) Elsewhere(user string, source netip.Addr, delta int) {
	t.mu.Lock()
	u := t.named(user)
	t.mu.Unlock()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.elsewhere == nil {
		u.elsewhere = make(map[netip.Addr]int)
	}
	add(u.elsewhere, source, delta)
	u.away += delta
}

// Holdings are what the seats have taken here; Of is left to the caller.
func (s *Seats) Holdings() []Holding {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Holding, 0, len(s.taken))
	for seat, n := range s.taken {
		all = append(all, Holding{User: []byte(seat.user), Source: seat.source, Open: n})
	}
	return all
}

// Elsewhere counts delta more that another process has: of a user, or, without
// one, of a source, an netaddr.SourceKey.
func (s *Seats) Elsewhere(user string, source netip.Addr, delta int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.elsewhere == nil {
		s.elsewhere = make(map[Seat]int)
	}
	add(s.elsewhere, Seat{user, source}, delta)
	s.away += delta
}

func add[K comparable](counts map[K]int, source K, delta int) {
	if counts[source] += delta; counts[source] <= 0 {
		delete(counts, source)
	}
}

// list is a copy, so that nobody waits while it is gone through.
func (t *Users) list() []*User {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*User, 0, len(t.users))
	for _, u := range t.users {
		all = append(all, u)
	}
	return all
}
