package ratelimit

import "net/netip"

// Holding is how many connections are open that count towards a limit: those of
// a user from a source, or, without a user, all of a source. While a daemon is
// upgraded, several processes have connections, and each counts the others'.
type Holding struct {
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

func add(counts map[netip.Addr]int, source netip.Addr, delta int) {
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

// Moved is what a user's connections have booked of a bandwidth, in bytes.
type Moved struct {
	User []byte `json:"user"` // base64: names are bytes
	Up   int64  `json:"up,omitempty"`
	Down int64  `json:"down,omitempty"`
}

// Moved is what was booked since the last call, by users with a bandwidth.
func (t *Users) Moved() []Moved {
	var all []Moved
	for _, u := range t.list() {
		if m := (Moved{User: []byte(u.name), Up: u.Up.untold.Swap(0), Down: u.Down.untold.Swap(0)}); m.Up != 0 || m.Down != 0 {
			all = append(all, m)
		}
	}
	return all
}

// MovedElsewhere has users wait for what another process has moved for them.
func (t *Users) MovedElsewhere(list []Moved) {
	for _, m := range list {
		t.mu.Lock()
		u := t.users[string(m.User)]
		t.mu.Unlock()
		if u != nil { // else nobody moves anything here
			u.Up.elsewhere(m.Up)
			u.Down.elsewhere(m.Down)
		}
	}
}

// mostDebt bounds how long a user waits for what other processes have moved.
const mostDebt = 2 * queue

// elsewhere books bytes that have moved already, in another process; less than
// 0 gives some back.
func (b *Bucket) elsewhere(n int64) {
	rate := b.rate.Load()
	if rate == 0 || n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.catchUp()
	if b.due = b.due.Add(at(rate, n)); b.due.Sub(now) > mostDebt {
		b.due = now.Add(mostDebt)
	}
}
