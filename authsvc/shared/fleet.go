package shared

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// fleet is what is known of the other replicas.
type fleet struct {
	mu      sync.Mutex
	seen    [3]int        // how many replicas there were at the last beats, this one included
	beaten  time.Duration // the last beat that was answered; 0: none was
	joined  int64         // when this replica came, by the store's clock; 0: it has not
	settled bool          // all others have beaten since: this replica has a floor of each user
	changed chan struct{} // 1: beat now
}

// count is how many replicas there are.
func (f *fleet) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return max(f.seen[0], 1)
}

// floor is how many connections of a user any replica may hold without the
// store's word: all floors together are half of what the user may have. It goes
// by the most replicas that were there lately, so that it is never more than
// others reckon with.
func (f *fleet) floor(s *Store, most int) int {
	now := s.now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.settled || now > f.beaten+s.rhythm.lease {
		return 0
	}
	return most / 2 / max(slices.Max(f.seen[:]), 1)
}

// floorOfOthers is the floor that this replica reckons with, by the fewest that
// there were lately. While it does not know which floor the others go by, that is
// the most which all of them together may have.
func (f *fleet) floorOfOthers(most int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.settled {
		return most / 2
	}
	return most / 2 / max(slices.Min(f.seen[:]), 1)
}

// joins reckons with one more replica, which has just said that it comes.
func (f *fleet) joins() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen[2], f.seen[1], f.seen[0] = f.seen[1], f.seen[0], f.seen[0]+1
	f.kick()
}

// comeBack has the replica say at once what it holds, since the store may have
// lost it.
func (f *fleet) comeBack() { f.kick() }

func (f *fleet) kick() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// noted takes the answer to a beat that was sent at a time, and reports whether
// the replica is new to the store.
func (f *fleet) noted(r rhythm, sent time.Duration, got beatOfFleet) (isNew bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	count := max(got.count, 1)
	if f.joined == 0 || sent > f.beaten+r.lease {
		// The others have not reckoned with it, or do no more.
		f.joined, f.settled, f.seen = got.now, count == 1, [3]int{count, count, count}
	} else {
		f.seen[2], f.seen[1], f.seen[0] = f.seen[1], f.seen[0], count
		f.settled = f.settled || got.ignorant == 0
	}
	f.beaten = max(sent, 1)
	return !got.was
}

// beatOfFleet is the answer to a beat.
type beatOfFleet struct {
	count    int
	was      bool  // on the list
	now      int64 // ms of the store's clock
	ignorant int   // others who have not beaten since this replica joined
}

// unsettled reports whether it is worth to ask soon whether all have beaten.
func (f *fleet) unsettled() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.joined != 0 && !f.settled
}

// since is when this replica joined, by the store's clock; 0: it has not.
func (f *fleet) since() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.joined
}

// leastPause is the least time between two beats, however many replicas come
// and go.
const leastPause = 100 * time.Millisecond

// keepLeases says what this replica holds, again and again.
func (s *Store) keepLeases(ctx context.Context) error {
	for {
		if s.beatFleet(ctx, s.call) {
			s.beatSeats(ctx)
		}
		if !after(ctx, leastPause) {
			return ctx.Err()
		}
		pause := s.rhythm.beat - leastPause - rand.N(s.rhythm.beat/10) //nolint:gosec // spreads load, keeps no secret
		if s.fleet.unsettled() {
			pause = leastPause
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-s.fleet.changed:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// caller is Store.call, or what probes a store that is down.
type caller func(ctx context.Context, what string, f func(ctx context.Context, c rueidis.Client) error) error

// beatFleet puts this replica on the list, and reports whether it could.
func (s *Store) beatFleet(ctx context.Context, call caller) bool {
	var a About
	if s.hooks.About != nil {
		a = s.hooks.About()
	}
	about, err := json.Marshal(a)
	if err != nil {
		about = []byte("{}") // its types are ours: it cannot be
	}
	args := append([]string{s.id, string(about), ms(s.rhythm.lease), ms(s.rhythm.forgotten), itoa(s.fleet.since())}, s.out.mine()...)
	keys := []string{s.keys.replicas(), s.keys.about(), s.keys.outUsers()}
	ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
	defer cancel()
	sent, asked := s.now(), time.Now()
	var n []int64
	var out []string
	err = call(ctx, "fleet", func(ctx context.Context, c rueidis.Client) error {
		list, err := fleetScript.run(ctx, c, keys, args).ToArray()
		if err != nil {
			return err
		}
		if len(list) != 5 {
			return errAnswer
		}
		n, err = numbers(list[:4])
		var err2 error
		out, err2 = list[4].AsStrSlice()
		return errors.Join(err, err2)
	})
	if err != nil {
		if ctx.Err() == nil || errors.Is(err, context.DeadlineExceeded) {
			s.health.lost(ctx, s, err) // no connection waited for it, and yet it was late
		}
		return false
	}
	s.offset.Store(n[2] - asked.UnixMilli())
	s.metrics.Replicas.Store(n[0])
	s.takeOut(out)
	s.doFailed()
	if s.fleet.noted(s.rhythm, sent, beatOfFleet{count: int(n[0]), was: n[1] == 1, now: n[2], ignorant: int(n[3])}) {
		s.publish(event{Kind: eventJoin})
		s.restate()
		s.syncQuotas(ctx, true)
	}
	return true
}

// depart takes this replica off the list.
func (s *Store) depart(ctx context.Context) {
	keys := []string{s.keys.replicas(), s.keys.about(), s.keys.outUsers()}
	_ = s.call(ctx, "fleet", func(ctx context.Context, c rueidis.Client) error { // if not, its lease ends
		if err := departScript.run(ctx, c, keys, []string{s.id}).Error(); err != nil {
			return err
		}
		return s.sendNow(ctx, c, event{Kind: eventLeft})
	})
}

// Replica is one of the fleet.
type Replica struct {
	ID       string
	Name     string
	Self     bool
	LastBeat time.Time
	About    About
	Users    map[string]int // connections by user
}

// Replicas are those that live, by name. The error says that the store does not
// answer.
func (s *Store) Replicas(ctx context.Context) ([]Replica, error) {
	ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
	defer cancel()
	var all []Replica
	err := s.call(ctx, "list", func(ctx context.Context, c rueidis.Client) (err error) {
		all, err = s.readReplicas(ctx, c)
		return err
	})
	slices.SortFunc(all, func(a, b Replica) int { return strings.Compare(a.ID, b.ID) })
	return all, err
}

func (s *Store) readReplicas(ctx context.Context, c rueidis.Client) ([]Replica, error) {
	beats, err := c.Do(ctx, c.B().Zrange().Key(s.keys.replicas()).Min("0").Max("-1").Withscores().Build()).AsZScores()
	if err != nil {
		return nil, err
	}
	about, err := c.Do(ctx, c.B().Hgetall().Key(s.keys.about()).Build()).AsStrMap()
	if err != nil {
		return nil, err
	}
	var all []Replica
	var asks []rueidis.Completed
	limit := s.storeTime(time.Now()) - s.rhythm.lease.Milliseconds()
	for _, b := range beats {
		if int64(b.Score) <= limit {
			continue // its lease has ended
		}
		r := Replica{ID: b.Member, Name: nameOf(b.Member), Self: b.Member == s.id, LastBeat: s.ourTime(int64(b.Score))}
		_ = json.Unmarshal([]byte(about[b.Member]), &r.About) // of another version perhaps: what it has is enough
		all = append(all, r)
		asks = append(asks, c.B().Get().Key(s.keys.usage(b.Member)).Build())
	}
	for i, r := range c.DoMulti(ctx, asks...) {
		text, err := r.ToString()
		if err != nil && !rueidis.IsRedisNil(err) {
			return nil, err
		}
		all[i].Users = decodeUsage(text)
	}
	return all, nil
}

// storeTime and ourTime translate between our clock and the store's.
func (s *Store) storeTime(t time.Time) int64 { return t.UnixMilli() + s.offset.Load() }
func (s *Store) ourTime(ms int64) time.Time  { return time.UnixMilli(ms - s.offset.Load()) }
