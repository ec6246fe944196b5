package shared

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"cleversocks/aclsvc/ratelimit"
)

// seats are the connections and addresses of users, as this replica holds them.
type seats struct {
	mu    sync.Mutex
	users map[string]*seat
}

// seat is one user's. While somebody calls the store about it (busy), others
// that have to ask wait, and are in the next call together: the store never
// sees two calls of a replica about one user at a time.
//
// What may be held without asking is what the others reckon with: what the store
// has granted, or the floor that every replica has of a user who is not strict.
type seat struct {
	user string

	mu      sync.Mutex
	held    int                // connections here
	ending  int                // of these, are being ended as too many, and count no more
	sources map[netip.Addr]int // theirs, by netaddr.SourceKey
	most    int                // of the last connection's account
	wide    int

	seq     int64
	said    int           // what the store believes to be held
	granted int           // may be held
	others  int           // what others held when the store answered last
	until   time.Duration // until then both of these are worth something
	answers int           // how often the store has answered
	mute    time.Duration // since when it does not, of this user; 0: it does
	strict  bool          // the floor must not be used, and others wait for what is given back
	stored  bool          // the store may have a field of ours

	busy      bool
	stale     bool // the store should hear of held soon
	doubts    []doubt
	doubted   bool // the others were asked what they hold, to judge these
	waiting   []*claim
	tightened time.Duration // when the others were last asked in vain to be strict
	gone      bool          // out of the table
}

// claim is a connection that waits for the store's word.
type claim struct {
	source  netip.Addr
	fresh   bool // the source is new here, and the user may have few
	holder  ratelimit.Holder
	decided chan ratelimit.Verdict
	refused bool // by the store, unless others give something back
	over    bool // it is decided, or waits no longer
}

func (c *claim) decide(v ratelimit.Verdict) {
	c.over = true
	c.decided <- v
}

// lockSeat is a user's seat, locked.
func (s *Store) lockSeat(user string) *seat {
	for {
		s.seats.mu.Lock()
		u := s.seats.users[user]
		if u == nil {
			u = &seat{user: user, sources: make(map[netip.Addr]int)}
			s.seats.users[user] = u
		}
		s.seats.mu.Unlock()
		u.mu.Lock()
		if !u.gone {
			return u
		}
		u.mu.Unlock()
	}
}

// Enter asks for one more connection of a user from a source (a netaddr.SourceKey):
// most and wide bound the connections and the sources that the user has in the
// whole fleet; 0: any number. Admitted owes one Leave. It asks the store only
// where the user has many, and returns within the budget of a call. Of what it lets
// in since the store was late, the holder (nil: nobody) may hear in the next moment
// that it is one too many.
func (s *Store) Enter(ctx context.Context, user string, source netip.Addr, most, wide int, holder ratelimit.Holder) ratelimit.Verdict {
	u := s.lockSeat(user)
	u.most, u.wide = most, wide
	if s.takeUnasked(u, source) {
		u.mu.Unlock()
		return ratelimit.Admitted
	}
	c := &claim{source: source, fresh: u.isNew(source), holder: holder, decided: make(chan ratelimit.Verdict, 1)}
	if s.health.isDown() {
		defer u.mu.Unlock()
		return s.alone(u, c)
	}
	u.waiting = append(u.waiting, c)
	heard := u.answers
	if !u.busy {
		s.startAsking(u) // if it cannot, the service is about to start, and asks then
	}
	u.mu.Unlock()
	return s.await(ctx, u, c, heard)
}

// EnterNow is Enter where nobody has to be asked; false: Enter would.
func (s *Store) EnterNow(user string, source netip.Addr, most, wide int) bool {
	u := s.lockSeat(user)
	defer u.mu.Unlock()
	u.most, u.wide = most, wide
	return s.takeUnasked(u, source)
}

// takeUnasked takes one more connection if that may be without the store's word.
func (s *Store) takeUnasked(u *seat, source netip.Addr) bool {
	if u.isNew(source) || u.most > 0 && u.held >= s.unasked(u) {
		return false
	}
	u.take(source)
	return true
}

// isNew reports whether a source is new here, of a user who may have few.
func (u *seat) isNew(source netip.Addr) bool { return u.wide > 0 && u.sources[source] == 0 }

// maxBudgets is how many budgets of a call a connection waits at most while the
// store does answer, and others are asked for what they could do without.
const maxBudgets = 5

// await waits for the verdict about a claim: no longer than for one call if the
// store does not answer.
func (s *Store) await(ctx context.Context, u *seat, c *claim, heard int) ratelimit.Verdict {
	for budgets := 1; ; budgets++ {
		spent, cancel := spending(ctx, s.options.Timeout)
		select {
		case verdict := <-c.decided:
			cancel()
			return verdict
		case <-spent.Done():
			cancel()
		}
		u.mu.Lock()
		progress := u.answers > heard
		heard = u.answers
		u.mu.Unlock()
		if !progress || budgets == maxBudgets || ctx.Err() != nil {
			return s.giveUp(u, c)
		}
	}
}

// unasked is how many connections may be held without asking. While a call is
// on its way that is at most what the call says is held.
func (s *Store) unasked(u *seat) int {
	n := 0
	if s.now() < u.until {
		n = u.granted
	}
	if !u.busy && !u.strict {
		n = max(n, s.fleet.floor(s, u.most))
	}
	return n
}

// take is a connection that may come.
func (u *seat) take(source netip.Addr) {
	u.held++
	u.sources[source]++
}

// startAsking has a goroutine ask for a user for whom nobody does, if the service
// runs.
func (s *Store) startAsking(u *seat) {
	u.busy = s.background(func(ctx context.Context) { s.ask(ctx, u) })
}

// giveUp decides a claim that has waited for as long as it may, unless it was
// decided meanwhile. What the store has refused stays refused, though others
// have not said yet what they could do without: the cap holds.
func (s *Store) giveUp(u *seat, c *claim) ratelimit.Verdict {
	u.mu.Lock()
	defer u.mu.Unlock()
	if c.over {
		return <-c.decided
	}
	c.over = true
	if c.refused {
		return ratelimit.TooMany
	}
	return s.alone(u, c)
}

// alone decides without the store. Where it answers, and this call was late, what
// it said of the others a moment ago still holds. Otherwise the whole cap is this
// replica's for the time of a lease, then its share by the number of replicas
// there were.
func (s *Store) alone(u *seat, c *claim) ratelimit.Verdict {
	s.metrics.Alone.Inc()
	if s.options.Deny {
		return ratelimit.Unknown
	}
	if u.wide > 0 && u.sources[c.source] == 0 && len(u.sources) >= u.wide {
		return ratelimit.TooWide
	}
	down, most := s.health.isDown(), u.most
	switch {
	case s.health.silence(s.now()) > s.rhythm.lease || u.mute > 0 && s.now()-u.mute > s.rhythm.lease:
		most = max(most/s.fleet.count(), 1)
	case !down && s.now() < u.until:
		most -= u.others
	}
	if u.most > 0 && u.held >= most {
		return ratelimit.TooMany
	}
	u.take(c.source)
	if !down {
		if u.most > 0 && c.holder != nil {
			u.doubts = append(u.doubts, doubt{c.holder, s.now()})
		}
		s.tellSoon(u)
	}
	return ratelimit.Admitted
}

// tellSoon has the store hear of what is held.
func (s *Store) tellSoon(u *seat) {
	u.stale = true
	if !u.busy {
		s.startAsking(u) // if it cannot, the next beat tells
	}
}

// Leave ends a connection that Enter admitted. The store hears of it at once where
// others wait for it; otherwise with the next call or beat.
func (s *Store) Leave(user string, source netip.Addr) {
	u := s.lockSeat(user)
	defer u.mu.Unlock()
	u.held--
	u.ending = max(u.ending-1, 0)
	wanted := u.most > 0 && u.strict
	if u.sources[source]--; u.sources[source] <= 0 {
		delete(u.sources, source)
		wanted = wanted || u.wide > 0
	}
	if u.stored && wanted && !s.health.isDown() {
		s.tellSoon(u)
	}
	if u.idle() && !u.busy {
		s.forget(u)
	}
}

// idle reports whether there is nothing to know of a user.
func (u *seat) idle() bool { return !u.stored && !u.strict && u.held == 0 && len(u.waiting) == 0 }

// forget takes a seat out of the table that nobody is in. Its lock is held.
func (s *Store) forget(u *seat) {
	u.gone = true
	s.seats.mu.Lock()
	delete(s.seats.users, u.user)
	s.seats.mu.Unlock()
}
