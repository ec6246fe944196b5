package shared

import (
	"context"
	"net/netip"
	"time"

	"github.com/redis/rueidis"
)

// beatSeats says of all users what is held, and reports whether the store has
// taken it.
func (s *Store) beatSeats(ctx context.Context) bool {
	var calls []scriptCall
	var users []*seat
	sent := s.now()
	flush := func() bool {
		ok := len(users) == 0 || s.beatSome(ctx, sent, users, calls)
		calls, users, sent = nil, nil, s.now()
		return ok
	}
	for _, u := range s.allSeats() {
		u.mu.Lock()
		switch {
		case u.gone || !u.wantsBeat(s.now()):
		case u.busy:
			u.stale = true
		default:
			u.busy = true
			calls, users = append(calls, s.telling(u, 0)), append(users, u)
		}
		u.mu.Unlock()
		if len(users) == beatBatch && !flush() {
			return false
		}
	}
	return flush()
}

// beatBatch is how many users' beats are sent at once.
const beatBatch = 128

// wantsBeat reports whether the store should hear of a user: it knows of some
// that are here, or should. Who is strict by hearsay alone is asked about once in
// a while.
func (u *seat) wantsBeat(now time.Duration) bool {
	return u.stored || u.held > 0 && (u.most > 0 || u.wide > 0) || u.strict && now > u.until
}

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
	if err != nil {
		s.notBeaten(ctx, err)
	}
	for i, u := range users {
		u.mu.Lock()
		answered := err == nil && got[i] != nil
		if answered {
			u.noted(sent+s.rhythm.lease, *got[i])
		} else {
			u.unheard(s.now())
		}
		u.busy = false
		switch {
		case len(u.current()) > 0 || u.stale && answered:
			s.startAsking(u)
		case u.idle():
			s.forget(u)
		}
		u.mu.Unlock()
	}
	return err == nil
}

// askWaiting asks for those who came before the service ran.
func (s *Store) askWaiting() {
	for _, u := range s.allSeats() {
		u.mu.Lock()
		if !u.busy && len(u.current()) > 0 {
			s.startAsking(u)
		}
		u.mu.Unlock()
	}
}

// becomeStrict is what another replica asks for: from here on each connection
// of the user is asked for, so that none is kept for a replica without need.
func (s *Store) becomeStrict(user string) {
	u := s.lockSeat(user)
	defer u.mu.Unlock()
	u.strict = true
	s.tellSoon(u)
}

// hearsay takes users whom another replica names to those that are new: they are
// strict. Nobody waits for anything.
func (s *Store) hearsay(users [][]byte) {
	for _, user := range users {
		u := s.lockSeat(string(user))
		if !u.strict {
			u.strict, u.until = true, s.now()+s.rhythm.keyLife()
			u.granted = min(u.granted, u.held)
			u.stale = u.stale || u.busy // the answer may be older than this
		}
		u.mu.Unlock()
	}
}

// namesAtOnce is how many users an event names at most.
const namesAtOnce = 500

// warn tells a replica that is new which users are strict, before it has a floor
// of them: see fleet.settled.
func (s *Store) warn(ctx context.Context) bool {
	var names [][]byte
	for _, u := range s.allSeats() {
		u.mu.Lock()
		if u.strict && u.held > 0 && s.fleet.mayHaveFloor(u.most) {
			names = append(names, []byte(u.user))
		}
		u.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
	defer cancel()
	for len(names) > 0 {
		n := min(len(names), namesAtOnce)
		if s.call(ctx, "event", func(ctx context.Context, c rueidis.Client) error {
			return s.sendNow(ctx, c, event{Kind: eventTighten, Names: names[:n]})
		}) != nil {
			return false
		}
		names = names[n:]
	}
	return true
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
