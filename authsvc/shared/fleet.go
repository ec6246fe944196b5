package shared

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// leastPause is the least time between two beats, however many replicas come
// and go.
const leastPause = 100 * time.Millisecond

// keepLeases says what this replica holds, again and again. It begins when the
// events are read: what the others tell a replica that is new must not be missed.
func (s *Store) keepLeases(ctx context.Context) error {
	select {
	case <-s.reads:
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		if s.spreadNews(ctx) && s.beatFleet(ctx) {
			s.beatSeats(ctx)
			s.mark(ctx)
		}
		if !after(ctx, leastPause) {
			return ctx.Err()
		}
		pause := s.rhythm.beat - leastPause - rand.N(s.rhythm.beat/10) //nolint:gosec // spreads load, keeps no secret
		timer := time.NewTimer(s.fleet.pause(pause, s.now()))
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

// spreadNews does what members.go says of a replica that has seen another fleet
// than before; false: it could not, and must not beat.
func (s *Store) spreadNews(ctx context.Context) bool {
	if !s.fleet.hasNews() || s.health.isDown() {
		return true
	}
	if !s.beatSeats(ctx) || !s.warn(ctx) {
		return false
	}
	s.fleet.newsSpread()
	return true
}

// mark puts a mark into the events, if that is due.
func (s *Store) mark(ctx context.Context) {
	name, due := s.fleet.markDue(s.now())
	if !due {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
	defer cancel()
	_ = s.call(ctx, "event", func(ctx context.Context, c rueidis.Client) error { // if not, it is due again
		return s.sendNow(ctx, c, event{Kind: eventMark, What: []byte(name)})
	})
}

// beatFleet puts this replica on the list, and reports whether it could.
func (s *Store) beatFleet(ctx context.Context) bool {
	var a About
	if s.hooks.About != nil {
		a = s.hooks.About()
	}
	about, err := json.Marshal(a)
	if err != nil {
		about = []byte("{}") // its types are ours: it cannot be
	}
	ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
	defer cancel()
	out := s.storeOut(ctx)
	args := []string{s.id, string(about), ms(s.rhythm.lease), ms(s.rhythm.forgotten), itoa(s.fleet.since()), out, ms(s.rhythm.keyLife())}
	keys := []string{s.keys.replicas(), s.keys.about(), s.keys.outUsers(), s.keys.outList(out)}
	sent, asked := s.now(), time.Now()
	var got beatOfFleet
	err = s.call(ctx, "fleet", func(ctx context.Context, c rueidis.Client) (err error) {
		got, err = beatOf(fleetScript.run(ctx, c, keys, args).ToArray())
		return err
	})
	if err != nil {
		s.notBeaten(ctx, err)
		return false
	}
	s.offset.Store(got.now - asked.UnixMilli())
	isNew, before := s.fleet.noted(s.rhythm, sent, got)
	s.metrics.Replicas.Store(int64(s.fleet.count()))
	if s.options.Quotas != nil {
		s.options.Quotas.Among(s.fleet.count())
	}
	if !got.stored {
		s.out.isStored("")
		s.fleet.kick()
	}
	s.named(out)
	s.takeOut(ctx, got.out)
	s.doFailed()
	if isNew {
		s.publish(event{Kind: eventJoin, Before: before})
		s.restate(before == 0)
		s.syncQuotas(ctx, true)
	} else if s.restating.left.Load() {
		s.goOnRestating()
	}
	return true
}

// notBeaten is a beat that the store has not taken: no connection waited for it, and
// yet it was late, or was refused. Without it nothing else is worth much.
func (s *Store) notBeaten(ctx context.Context, err error) {
	if ctx.Err() == nil || errors.Is(err, context.DeadlineExceeded) {
		s.health.lost(ctx, s, err)
	}
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
