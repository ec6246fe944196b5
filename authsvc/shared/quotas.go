package shared

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"cleversocks/authsvc"
)

// The rhythm of quotas: who moves bytes is told half a second later at most.
const (
	quotaTick  = 500 * time.Millisecond
	quotaBatch = 128
)

// keepQuotas tells the store what was moved, and what is used of it, until ctx
// ends.
func (s *Store) keepQuotas(ctx context.Context) error {
	tick := time.NewTicker(quotaTick)
	defer tick.Stop()
	for ticks := 0; ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.wantedQuotas():
			if !s.health.isDown() {
				s.syncQuotas(ctx, false)
			}
			continue
		case <-tick.C:
			s.tellOnceAgain()
		}
		if s.health.isDown() {
			continue
		}
		s.syncQuotas(ctx, false)
		if ticks%int(showEvery/quotaTick) == 0 {
			s.showUsage(ctx)
		}
		ticks++
	}
}

// wantedQuotas gets a value when somebody waits to hear what is left of a quota.
func (s *Store) wantedQuotas() <-chan struct{} {
	if s.options.Quotas == nil {
		return nil
	}
	return s.options.Quotas.Wanted()
}

// syncQuotas tells the parts that are due, or all.
func (s *Store) syncQuotas(ctx context.Context, all bool) {
	if s.options.Quotas == nil {
		return
	}
	shares := s.options.Quotas.Shares(all, s.fleet.count())
	for len(shares) > 0 {
		n := min(len(shares), quotaBatch)
		if s.syncShares(ctx, shares[:n]) != nil {
			for _, share := range shares {
				s.options.Quotas.Unshared(share.User)
			}
			return
		}
		shares = shares[n:]
	}
}

// Sync has the usage of these users be the fleet's of now, for who looks at it.
func (s *Store) Sync(ctx context.Context, accounts []*authsvc.Account) {
	if s.options.Quotas != nil && !s.health.isDown() {
		s.options.Quotas.Want(accounts)
		s.syncQuotas(ctx, false)
	}
}

// ResetQuota begins a new period of an account's quota, for all replicas. An error
// means that nobody forgot anything.
func (s *Store) ResetQuota(ctx context.Context, a *authsvc.Account) error {
	ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
	defer cancel()
	err := s.call(ctx, "quota", func(ctx context.Context, c rueidis.Client) error {
		return resetScript.run(ctx, c, []string{s.keys.period(a.Name)}, []string{ms(a.QuotaPeriod)}).Error()
	})
	if err == nil {
		s.publish(event{Kind: eventReset, User: a.Name})
	}
	return err
}

func (s *Store) syncShares(ctx context.Context, shares []authsvc.Share) error {
	calls := make([]scriptCall, len(shares))
	for i, share := range shares {
		begin := s.periods.told(s, share)
		calls[i] = scriptCall{
			keys: []string{s.keys.period(share.User)},
			args: []string{s.id, itoa(begin), itoa(share.Own), ms(share.Period)},
		}
	}
	ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
	defer cancel()
	return s.call(ctx, "quota", func(ctx context.Context, c rueidis.Client) error {
		for i, r := range quotaScript.runAll(ctx, c, calls) {
			err := s.learnShare(shares[i], r)
			if isStrange(err) {
				s.strange.found(ctx, s, about(calls[i].keys[0], err))
				err = nil
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// learnShare takes the answer about one user's quota.
func (s *Store) learnShare(share authsvc.Share, r rueidis.RedisResult) error {
	list, err := r.ToArray()
	if err != nil {
		return err
	}
	n, err := numbers(list)
	if err != nil || len(n) != 4 {
		return errors.Join(err, errAnswer)
	}
	if n[0] > 0 {
		s.options.Quotas.Learn(share, s.periods.learnt(s, share.User, n[0]), n[1], n[2], n[3] == 1)
	}
	return nil
}

// periods are when users' periods began, as the store says it: by our clock and
// back, which drift, a period would seem to be another one.
type periods struct {
	mu    sync.Mutex
	users map[string]period
	most  int // how many there may be before those are looked for who are gone
}

type period struct {
	ours  time.Time
	store int64
}

// learnt is a begin by our clock.
func (p *periods) learnt(s *Store, user string, begin int64) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.users[user]; known.store == begin {
		return known.ours
	}
	if p.users == nil {
		p.users = make(map[string]period)
	}
	if len(p.users) > p.most {
		maps.DeleteFunc(p.users, func(user string, _ period) bool { return !s.options.Quotas.Knows(user) })
		p.most = 2*len(p.users) + leastPeriods
	}
	now := period{s.ourTime(begin), begin}
	p.users[user] = now
	return now.ours
}

// leastPeriods is how many periods are kept without a look at whose they are.
const leastPeriods = 64

// told is a share's begin by the store's clock; 0: nothing was moved.
func (p *periods) told(s *Store, share authsvc.Share) int64 {
	if share.Begin.IsZero() {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.users[share.User]; known.ours.Equal(share.Begin) {
		return known.store
	}
	return s.storeTime(share.Begin)
}

// foldQuotas gives what this replica has moved to those who left before: its
// fields would stay as long as the periods.
func (s *Store) foldQuotas(ctx context.Context) {
	if s.options.Quotas == nil {
		return
	}
	s.syncQuotas(ctx, true)
	var calls []scriptCall
	for _, share := range s.options.Quotas.Shares(true, s.fleet.count()) {
		if share.Own > 0 {
			calls = append(calls, scriptCall{keys: []string{s.keys.period(share.User)}, args: []string{s.id}})
		}
	}
	for len(calls) > 0 {
		n := min(len(calls), quotaBatch)
		if s.call(ctx, "quota", func(ctx context.Context, c rueidis.Client) error {
			for _, r := range foldScript.runAll(ctx, c, calls[:n]) {
				if err := r.Error(); err != nil {
					return err
				}
			}
			return nil
		}) != nil {
			return
		}
		calls = calls[n:]
	}
}
