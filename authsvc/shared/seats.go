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
	sources map[netip.Addr]int // theirs, by netaddr.SourceKey
	most    int                // of the last connection's account
	wide    int

	seq     int64
	said    int           // what the store was last told
	granted int           // may be held
	until   time.Duration // until then
	strict  bool          // the floor must not be used
	hot     bool          // half of the cap is taken: others may wait for what is given back
	stored  bool          // the store may have a field of ours

	busy      bool
	stale     bool // the store should hear of held soon
	waiting   []*claim
	tightened time.Duration // when the others were last asked in vain to be strict
	gone      bool          // out of the table
}

// claim is a connection that waits for the store's word.
type claim struct {
	source  netip.Addr
	fresh   bool // the source is new here, and the user may have few
	decided chan ratelimit.Verdict
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
// where the user has many, and returns within the budget of a call.
func (s *Store) Enter(ctx context.Context, user string, source netip.Addr, most, wide int) ratelimit.Verdict {
	u := s.lockSeat(user)
	u.most, u.wide = most, wide
	fresh := wide > 0 && u.sources[source] == 0
	if !fresh && (most <= 0 || u.held < s.unasked(u)) {
		u.take(source)
		u.mu.Unlock()
		return ratelimit.Admitted
	}
	c := &claim{source: source, fresh: fresh, decided: make(chan ratelimit.Verdict, 1)}
	if s.health.isDown() || !u.busy && !s.startAsking(u) {
		defer u.mu.Unlock()
		return s.alone(u, source)
	}
	u.waiting = append(u.waiting, c)
	u.mu.Unlock()
	budget := time.NewTimer(s.options.Timeout)
	defer budget.Stop()
	select {
	case verdict := <-c.decided:
		return verdict
	case <-budget.C:
	case <-ctx.Done():
	}
	return s.giveUp(u, c)
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

// startAsking has a goroutine ask for a user for whom nobody does; false: too
// many ask.
func (s *Store) startAsking(u *seat) bool {
	select {
	case s.permits <- struct{}{}:
	default:
		s.metrics.Calls.Of("enter", "busy").Inc()
		return false
	}
	u.busy = true
	if s.background(func(ctx context.Context) { defer func() { <-s.permits }(); s.ask(ctx, u) }) {
		return true
	}
	<-s.permits
	u.busy = false
	return false
}

// giveUp decides a claim that has waited for as long as it may, unless it was
// decided meanwhile.
func (s *Store) giveUp(u *seat, c *claim) ratelimit.Verdict {
	u.mu.Lock()
	defer u.mu.Unlock()
	if c.over {
		return <-c.decided
	}
	c.over = true
	return s.alone(u, c.source)
}

// alone decides without the store: for the time of a lease the whole cap is
// this replica's, then its share by the number of replicas there were.
func (s *Store) alone(u *seat, source netip.Addr) ratelimit.Verdict {
	s.metrics.Alone.Inc()
	if s.options.Deny {
		return ratelimit.Unknown
	}
	if u.wide > 0 && u.sources[source] == 0 && len(u.sources) >= u.wide {
		return ratelimit.TooWide
	}
	most := u.most
	if most > 0 && s.health.silence(s.now()) > s.rhythm.lease {
		most = max(most/s.fleet.count(), 1)
	}
	if most > 0 && u.held >= most {
		return ratelimit.TooMany
	}
	u.take(source)
	return ratelimit.Admitted
}

// Leave ends a connection that Enter admitted.
func (s *Store) Leave(user string, source netip.Addr) {
	u := s.lockSeat(user)
	defer u.mu.Unlock()
	u.held--
	wanted := u.most > 0 && u.hot
	if u.sources[source]--; u.sources[source] <= 0 {
		delete(u.sources, source)
		wanted = wanted || u.wide > 0
	}
	if u.stored && wanted {
		u.stale = true
		if !u.busy && !s.health.isDown() {
			s.startAsking(u) // if it cannot, the next beat tells
		}
	}
	if !u.stored && !u.busy && u.held == 0 {
		s.forget(u)
	}
}

// forget takes a seat out of the table that nobody is in. Its lock is held.
func (s *Store) forget(u *seat) {
	u.gone = true
	s.seats.mu.Lock()
	delete(s.seats.users, u.user)
	s.seats.mu.Unlock()
}

// ask asks for all that wait, and tells what was given back, until there is
// nothing more to say.
func (s *Store) ask(ctx context.Context, u *seat) {
	for round := 0; ; {
		u.mu.Lock()
		claims := u.current()
		if len(claims) == 0 {
			if !u.stale {
				u.busy = false
				u.mu.Unlock()
				return
			}
			s.tell(ctx, u)
			u.mu.Unlock()
			continue
		}
		slack := s.askFor(ctx, u, claims)
		again := slack && (u.tightened == 0 || s.now()-u.tightened > time.Second)
		if !again {
			u.refuse(claims)
		}
		u.mu.Unlock()
		if !again {
			round = 0
			continue
		}
		if round == 0 {
			s.publish(event{Kind: eventTighten, User: u.user})
		}
		after(ctx, s.options.Timeout/20<<round) // for the others to have heard, within the budget
		if round++; round == tightenRounds {
			u.mu.Lock()
			u.tightened = s.now()
			u.mu.Unlock()
			round = 0
		}
	}
}

// tightenRounds is how often a claim is asked for again while others become
// strict: 1, 2, 4, 8 of the 20 ms.
const tightenRounds = 4

// current are the claims that still wait.
func (u *seat) current() []*claim {
	live := u.waiting[:0]
	for _, c := range u.waiting {
		if !c.over {
			live = append(live, c)
		}
	}
	clear(u.waiting[len(live):])
	u.waiting = live
	return append([]*claim(nil), live...)
}

// refuse decides what was not granted.
func (u *seat) refuse(claims []*claim) {
	for _, c := range claims {
		if !c.over {
			c.decide(ratelimit.TooMany)
		}
	}
}

// asking is the two scripts' keys, and the arguments that both begin with. From
// here to the answer nobody may come by an older grant: the store would not
// hear of it.
func (s *Store) asking(u *seat) scriptCall {
	u.seq++
	u.stale, u.stored, u.said = false, true, u.held
	u.granted = min(u.granted, u.held)
	return scriptCall{
		keys: []string{s.keys.conns(u.user), s.keys.addresses(u.user)},
		args: []string{s.id, itoa(u.seq), itoa(s.fleet.floorOfOthers(u.most)), itoa(s.fleet.count()), itoa(u.held)},
	}
}

// askFor asks for claims and tells those that may come, and those that may not
// for their addresses. slack: others could give the rest by being strict. The
// seat's lock is held before and after, not meanwhile.
func (s *Store) askFor(ctx context.Context, u *seat, claims []*claim) (slack bool) {
	call, sent := s.asking(u), s.now()
	call.args = append(call.args, itoa(u.most), ms(s.rhythm.lease), ms(s.rhythm.keyLife()), itoa(u.wide))
	for _, c := range claims {
		source := ""
		if c.fresh {
			source = c.source.String()
		}
		call.args = append(call.args, source)
	}
	u.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	got, err := s.entered(ctx, call)
	cancel()
	u.mu.Lock()
	if err != nil {
		for _, c := range claims {
			if !c.over {
				c.decide(s.alone(u, c.source))
			}
		}
		return false
	}
	u.granted, u.until, u.strict = got.granted, sent+s.rhythm.lease, got.strict
	u.hot = got.strict || u.most > 0 && 2*(got.others+got.granted) >= u.most
	for i, c := range claims[:min(len(claims), len(got.answers))] {
		switch {
		case got.answers[i] == 'y' && c.over:
			u.stale = true // the store counts one that did not wait
		case got.answers[i] == 'y':
			u.take(c.source)
			c.decide(ratelimit.Admitted)
		case got.answers[i] == 'a' && !c.over:
			c.decide(ratelimit.TooWide)
		}
	}
	return got.slack
}

// tell says what is held. The seat's lock is held before and after, not
// meanwhile.
func (s *Store) tell(ctx context.Context, u *seat) {
	call, sent := s.telling(u), s.now()
	u.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	got, err := s.told(ctx, call)
	cancel()
	u.mu.Lock()
	if err == nil {
		u.noted(sent+s.rhythm.lease, got)
	}
}

// telling is the call that says what is held.
func (s *Store) telling(u *seat) scriptCall {
	call := s.asking(u)
	call.args = append(call.args, ms(s.rhythm.lease), ms(s.rhythm.keyLife()))
	if u.wide > 0 {
		for source := range u.sources {
			call.args = append(call.args, source.String())
		}
	}
	return call
}

// noted takes the answer to telling, which holds until a time.
func (u *seat) noted(until time.Duration, got beaten) {
	u.until, u.strict = until, got.strict
	u.hot = got.strict || u.most > 0 && 2*(got.others+u.held) >= u.most
	u.stored = got.strict || u.said > 0
}

// beatSeats says of all users what is held. It stops when the store does not
// answer.
func (s *Store) beatSeats(ctx context.Context) {
	var calls []scriptCall
	var users []*seat
	sent := s.now()
	flush := func() bool {
		ok := s.beatSome(ctx, sent, users, calls)
		calls, users, sent = nil, nil, s.now()
		return ok
	}
	for _, u := range s.allSeats() {
		u.mu.Lock()
		switch {
		case u.gone || !u.stored && (u.held == 0 || u.most <= 0 && u.wide <= 0):
		case u.busy:
			u.stale = true
		default:
			u.busy = true
			calls, users = append(calls, s.telling(u)), append(users, u)
		}
		u.mu.Unlock()
		if len(users) == beatBatch && !flush() {
			return
		}
	}
	if len(users) > 0 {
		flush()
	}
}

// beatBatch is how many users' beats are sent at once.
const beatBatch = 128

func (s *Store) allSeats() []*seat {
	s.seats.mu.Lock()
	defer s.seats.mu.Unlock()
	all := make([]*seat, 0, len(s.seats.users))
	for _, u := range s.seats.users {
		all = append(all, u)
	}
	return all
}

// beatSome sends the beats of busy seats, which it then frees.
func (s *Store) beatSome(ctx context.Context, sent time.Duration, users []*seat, calls []scriptCall) bool {
	ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
	defer cancel()
	got, err := s.beatenAll(ctx, calls)
	for i, u := range users {
		u.mu.Lock()
		if err == nil {
			u.noted(sent+s.rhythm.lease, got[i])
		}
		u.busy = false
		switch {
		case u.stale || len(u.current()) > 0:
			if !s.startAsking(u) {
				for _, c := range u.current() {
					c.decide(s.alone(u, c.source))
				}
			}
		case !u.stored && u.held == 0:
			s.forget(u)
		}
		u.mu.Unlock()
	}
	return err == nil
}

// becomeStrict is what another replica asks for: from here on each connection
// of the user is asked for, so that none is kept for a replica without need.
func (s *Store) becomeStrict(user string) {
	u := s.lockSeat(user)
	defer u.mu.Unlock()
	u.strict, u.stale = true, true
	if !u.busy {
		s.startAsking(u) // if it cannot, the next beat tells
	}
}

// emptySeats gives everything back.
func (s *Store) emptySeats(ctx context.Context) {
	for _, u := range s.allSeats() {
		u.mu.Lock()
		u.held, u.sources = 0, map[netip.Addr]int{}
		u.mu.Unlock()
	}
	s.beatSeats(ctx)
}
