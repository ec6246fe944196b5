package shared

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"cleversocks/authsvc"
	"cleversocks/conn/netaddr"
)

// A replica that is not on the list says what it knows of bans and auth-once, all of
// it: the store may have lost that. What was ended while the replica was away, the
// store remembers, and the replica forgets.

// enoughRestate is how many replicas of a large fleet put back what a store has
// lost.
const enoughRestate = 8

// restateBatch is how many bans or addresses are said at once.
const restateBatch = 128

// restating is what this replica has to say still.
type restating struct {
	mu   sync.Mutex  // one goroutine does it
	left atomic.Bool // not all of it was said
}

// restate has what this replica knows be said. A newcomer may know what was ended; of
// the others of a large fleet some do it, which chance picks.
func (s *Store) restate(newcomer bool) {
	if n := s.fleet.count(); !newcomer && n > enoughRestate && rand.IntN(n) >= enoughRestate { //nolint:gosec // spreads load, keeps no secret
		return
	}
	s.goOnRestating()
}

func (s *Store) goOnRestating() {
	s.restating.left.Store(false)
	s.background(func(ctx context.Context) { // it runs: a beat has asked
		s.restating.mu.Lock()
		defer s.restating.mu.Unlock()
		all := inBatches(s.bansToSay(), restateBatch, func(batch []authsvc.Ban) bool { return s.restateBans(ctx, batch) }) &&
			inBatches(s.onceToSay(), restateBatch, func(batch []onceEntry) bool { return s.restateOnce(ctx, batch) })
		if !all {
			s.restating.left.Store(true) // the next beat goes on
		}
	})
}

// inBatches takes a list in pieces until one fails.
func inBatches[T any](list []T, size int, say func(batch []T) bool) bool {
	for len(list) > 0 {
		n := min(len(list), size)
		if !say(list[:n]) {
			return false
		}
		list = list[n:]
	}
	return true
}

func (s *Store) bansToSay() (list []authsvc.Ban) {
	if s.options.Throttle == nil {
		return nil
	}
	for _, b := range s.options.Throttle.Bans() {
		if !netaddr.IsLocalUser(b.Source.Addr()) { // a number that others give to somebody else
			list = append(list, b)
		}
	}
	return list
}

// restateBans says bans, and puts those on the list that the store had lost.
func (s *Store) restateBans(ctx context.Context, batch []authsvc.Ban) bool {
	calls, data := make([]scriptCall, len(batch)), make([]*banData, len(batch))
	for i, b := range batch {
		d := &banData{Since: s.storeTime(b.Since), Until: s.storeTime(b.Until), Level: b.Level, Replica: b.Replica}
		if d.Replica == "" {
			d.Replica = s.options.Replica
		}
		data[i] = d
		calls[i] = scriptCall{
			keys: []string{s.keys.ban(b.Source.Addr())},
			args: []string{itoa(d.Until), itoa(d.Level), itoa(d.Since), ms(b.Duration())},
		}
	}
	var lost []int
	ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
	defer cancel()
	err := s.call(ctx, "fail", func(ctx context.Context, c rueidis.Client) error {
		for i, r := range restoreScript.runAll(ctx, c, calls) {
			switch n, err := r.AsInt64(); {
			case isStrange(err):
				s.strange.found(ctx, s, about(calls[i].keys[0], err))
			case err != nil:
				return err
			case n > 0:
				lost = append(lost, i)
			case n < 0:
				s.options.Throttle.Forget(batch[i].Source.Addr())
			}
		}
		return nil
	})
	if len(lost) > 0 && s.call(ctx, "fail", func(ctx context.Context, c rueidis.Client) error { return s.relist(ctx, c, batch, data, lost) }) != nil {
		for _, i := range lost {
			s.listBan(batch[i].Source.Addr(), data[i])
		}
	}
	return err == nil
}

// relist puts bans on the list of all, and tells the others, past the outbox: it has
// not room for so many.
func (s *Store) relist(ctx context.Context, c rueidis.Client, batch []authsvc.Ban, data []*banData, lost []int) error {
	calls, events := make([]scriptCall, len(lost)), make([]rueidis.Completed, len(lost))
	for n, i := range lost {
		source := batch[i].Source.Addr()
		text, err := json.Marshal(data[i])
		if err != nil {
			return err
		}
		calls[n] = scriptCall{keys: []string{s.keys.bans(), s.keys.bansData()}, args: []string{source.String(), itoa(data[i].Until), string(text)}}
		events[n] = s.adding(c, event{Kind: eventBan, From: s.id, At: s.storeTime(time.Now()), Source: source, Ban: data[i]})
	}
	for _, r := range append(listScript.runAll(ctx, c, calls), c.DoMulti(ctx, events...)...) {
		if err := r.Error(); err != nil {
			return err
		}
	}
	return nil
}

// onceEntry is an address that is let in, as the store has it.
type onceEntry struct {
	addr netip.Addr
	text []byte
	ttl  time.Duration
}

func (s *Store) onceToSay() (list []onceEntry) {
	if s.options.Once == nil {
		return nil
	}
	s.options.Once.Encoded(func(addr netip.Addr, entry []byte, ttl time.Duration) {
		if ttl >= time.Millisecond {
			list = append(list, onceEntry{addr, entry, ttl})
		}
	})
	return list
}

// restateOnce says who is let in, where the store knows nothing of it.
func (s *Store) restateOnce(ctx context.Context, batch []onceEntry) bool {
	ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
	defer cancel()
	return s.call(ctx, "once", func(ctx context.Context, c rueidis.Client) error {
		commands := make([]rueidis.Completed, len(batch))
		for i, e := range batch {
			commands[i] = c.B().Set().Key(s.keys.once(e.addr)).Value(string(e.text)).Nx().Get().Px(e.ttl).Build()
		}
		for i, r := range c.DoMulti(ctx, commands...) {
			switch before, err := r.ToString(); {
			case rueidis.IsRedisNil(err): // it was not there
			case isStrange(err):
				s.strange.found(ctx, s, about(s.keys.once(batch[i].addr), err))
			case err != nil:
				return err
			case before == revokedMark:
				s.options.Once.Forget(batch[i].addr)
			}
		}
		return nil
	}) == nil
}
