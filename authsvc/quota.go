package authsvc

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"cleversocks/metrics"
)

// Quotas counts what users move against their quotas, over restarts too.
// Serve saves; the counting itself waits for nothing.
type Quotas struct {
	file stateFile

	mu    sync.Mutex
	users map[string]*Usage
	now   *Users // of the last Set; nil: there was none
	fleet quotaFleet
}

// Usage is one user's count, shared by all of the user's connections.
type Usage struct {
	dirty func()
	fleet *quotaFleet

	mu     sync.Mutex
	limit  int64 // bytes in a period; 0: no quota now
	period time.Duration
	start  time.Time // of the current period; zero: nothing was moved yet
	used   int64
	booked int64 // reserved, and not settled yet
	untold int64 // moved here, and not passed on to a successor yet
	// elsewhere is the part of used that other replicas have moved, or that was
	// saved: the rest is this process's own.
	elsewhere int64
	told      int64     // of this process's own, to the fleet
	toldAt    time.Time // zero: the fleet should hear of it, or it of the fleet
	unheard   unheard
}

// UsageReport is a user's count at one moment.
type UsageReport struct {
	User        string
	Used, Limit int64
	Since       time.Time // when the period began; zero: not yet
	Until       time.Time
}

// NewQuotas reads what was saved.
func NewQuotas(s StateOptions) *Quotas {
	q := &Quotas{users: map[string]*Usage{}, file: newStateFile(s, metrics.StateQuotas)}
	q.fleet.wanted = make(chan struct{}, 1)
	q.file.restore, q.file.dump = q.restore, func() any { return q.saved() }
	q.file.settle()
	return q
}

// Of is the usage of an account, also of one without a quota, which may be
// given one while the connection is open. Nil: there is no account. Look it up
// once a connection. What the last Set said of the user counts, and not what a
// connection from before that brings along.
func (q *Quotas) Of(a *Account) *Usage {
	if a = q.latest(a); a == nil {
		return nil
	}
	u := q.usage(a.Name)
	u.mu.Lock()
	if u.limit == 0 && a.QuotaPeriod > 0 { // later ones come by Set
		u.limit, u.period = a.QuotaBytes, a.QuotaPeriod
	}
	u.toldAt = time.Time{}
	u.mu.Unlock()
	return u
}

// latest is the account as it is in the settings now, or a, whose user is gone.
func (q *Quotas) latest(a *Account) *Account {
	q.mu.Lock()
	defer q.mu.Unlock()
	if a != nil && q.now != nil {
		if entry := q.now.byName[a.Name]; entry != nil {
			return &entry.Account
		}
	}
	return a
}

// Set takes the accounts of a reload: quotas change for connections that are
// open too.
func (q *Quotas) Set(users *Users) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.now = users
	for name, u := range q.users {
		entry := users.byName[name]
		u.mu.Lock()
		u.limit = 0
		if entry != nil && entry.QuotaPeriod > 0 {
			u.limit, u.period = entry.QuotaBytes, entry.QuotaPeriod
		}
		if entry == nil && u.used == 0 {
			delete(q.users, name)
		}
		u.mu.Unlock()
	}
}

func (q *Quotas) usage(name string) *Usage {
	q.mu.Lock()
	defer q.mu.Unlock()
	u := q.users[name]
	if u == nil {
		u = &Usage{dirty: func() { q.file.dirty.Store(true) }, fleet: &q.fleet}
		q.users[name] = u
	}
	return u
}

// Moved counts n bytes, either way, and reports whether the user may go on. A
// nil Usage has no quota. With n 0 it only asks.
func (u *Usage) Moved(n int64) bool {
	if u == nil {
		return true
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.limit <= 0 {
		return true // what moves meanwhile counts towards no quota that comes later
	}
	u.roll(time.Now())
	if n > 0 {
		if u.start.IsZero() {
			u.start = time.Now().Round(0).Truncate(time.Millisecond) // by the wall, which goes on over a restart
		}
		u.used += n
		u.untold += n
		u.dirty()
	}
	return u.used < u.limit
}

// Reserve books up to n bytes that are about to move: what is left of the quota
// at most. It reports how many, and whether any are left beyond what others
// have booked: if so, 0 means to ask again in a moment. Settle ends a booking.
func (u *Usage) Reserve(n int64) (granted int64, left bool) {
	if u == nil {
		return n, true
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	u.roll(now)
	if u.limit > 0 {
		n = max(min(n, u.limit-u.used-u.booked, u.room(now)), 0)
		if u.used >= u.limit {
			return 0, false
		}
	}
	u.booked += n
	return n, true
}

// Settle counts the bytes of a booking that moved.
func (u *Usage) Settle(granted, moved int64) {
	if u == nil {
		return
	}
	u.mu.Lock()
	u.booked -= granted
	u.mu.Unlock()
	u.Moved(moved)
}

// roll begins a new period if the last is over. Periods follow each other
// without a gap, so that a pause does not move them. One that began in the
// future was counted by a clock that was wrong: it begins now.
func (u *Usage) roll(now time.Time) {
	if u.start.IsZero() || u.period <= 0 {
		return
	}
	switch past := now.Round(0).Sub(u.start); {
	case past < 0:
		u.start = now.Round(0).Truncate(time.Millisecond)
		u.dirty()
	case past >= u.period:
		u.start = u.start.Add(past - past%u.period)
		u.used, u.elsewhere, u.unheard = 0, 0, unheard{}
		u.dirty()
	}
}

// Reset forgets what a user has moved, and reports whether there was
// anything.
func (q *Quotas) Reset(user string) bool {
	q.mu.Lock()
	u := q.users[user]
	q.mu.Unlock()
	if u == nil {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.used, u.elsewhere, u.start, u.unheard = 0, 0, time.Time{}, unheard{}
	u.dirty()
	return true
}

// Knows reports whether anything is counted of a user.
func (q *Quotas) Knows(user string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.users[user] != nil
}

// List is every user's usage, in no order.
func (q *Quotas) List() []UsageReport {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	out := make([]UsageReport, 0, len(q.users))
	for name, u := range q.users {
		u.mu.Lock()
		u.roll(now)
		out = append(out, UsageReport{User: name, Used: u.used, Limit: u.limit, Since: u.start, Until: u.start.Add(u.period)})
		u.mu.Unlock()
	}
	return out
}

// Serve saves until ctx ends, and once more then.
func (q *Quotas) Serve(ctx context.Context) error {
	return serveState(ctx, &q.file, func() {})
}

// String names the service.
func (q *Quotas) String() string { return "quotas" }

type savedUsage struct {
	User  []byte    `json:"user"` // base64: names are bytes
	Start time.Time `json:"start"`
	Used  int64     `json:"used"`
	// Period lets an entry whose user is gone from the settings end.
	Period time.Duration `json:"period"`
}

func (q *Quotas) saved() []savedUsage { return q.list(false) }

// list is what was counted. With told it is being passed on, whole.
func (q *Quotas) list(told bool) []savedUsage {
	out := []savedUsage{}
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	for name, u := range q.users {
		u.mu.Lock()
		u.roll(now)
		if !u.start.IsZero() && u.used > 0 {
			out = append(out, savedUsage{[]byte(name), u.start, u.used, u.period})
		}
		if told {
			u.untold = 0
		}
		u.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b savedUsage) int { return bytes.Compare(a.User, b.User) })
	return out
}

// restore adds what was saved, or what a predecessor's connections still move,
// to what was counted here.
func (q *Quotas) restore(payload []byte) error {
	var list []savedUsage
	if err := json.Unmarshal(payload, &list); err != nil {
		return err
	}
	now := time.Now()
	for _, e := range list {
		if len(e.User) == 0 || e.Used <= 0 {
			continue
		}
		u := q.usage(string(e.User))
		u.mu.Lock()
		u.add(e, now)
		u.mu.Unlock()
	}
	return nil
}

// add counts what was counted elsewhere, unless its period is over here.
func (u *Usage) add(e savedUsage, now time.Time) {
	if u.period == 0 {
		u.period = e.Period
	}
	u.roll(now)
	if over := u.start.Sub(e.Start); !u.start.IsZero() && u.period > 0 && over >= u.period {
		return
	}
	if u.start.IsZero() || e.Start.Before(u.start) {
		u.start = e.Start
	}
	u.used += e.Used
	u.elsewhere += e.Used // not of this process, whose part the fleet is told
	u.dirty()
}

// Share is one replica's part of a user's quota, for a fleet.
type Share struct {
	User   string
	Begin  time.Time // of the period; zero: nothing was moved yet
	Own    int64     // moved here in it, by this process
	Period time.Duration
}

// How often a fleet hears of a user who moves bytes: as often as needed for no
// more than a second's traffic to pass beyond a quota, and less while it is far.
const (
	shareNear = time.Second
	shareFar  = 3 * time.Second
	// farQuota is the least quota that can be far from its end.
	farQuota = 1 << 30
)

// Shares are the users' parts that a fleet of some replicas should hear of now;
// with all, those of everybody who has moved anything.
func (q *Quotas) Shares(all bool, replicas int) []Share {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	var out []Share
	for name, u := range q.users {
		u.mu.Lock()
		if u.limit > 0 {
			u.roll(now)
			if own := u.used - u.elsewhere; all && own > 0 || u.due(now, own, replicas) {
				u.told, u.toldAt = own, now
				out = append(out, Share{User: name, Begin: u.start, Own: own, Period: u.period})
			}
		}
		u.mu.Unlock()
	}
	return out
}

// due reports whether the fleet should hear of what this process has moved: at
// once if, were all replicas to do as much unheard, a quarter of what is left
// would go by it.
func (u *Usage) due(now time.Time, own int64, replicas int) bool {
	if u.toldAt.IsZero() {
		return true
	}
	moved, left := own-u.told, u.limit-u.used
	if moved == 0 {
		return false
	}
	pause := shareFar
	if left < u.limit/10 || u.limit < farQuota {
		pause = shareNear
	}
	return moved < 0 || moved*4*int64(replicas) >= left || now.Sub(u.toldAt) >= pause
}

// Want has the next Shares name these users, whom nobody may have asked for.
func (q *Quotas) Want(accounts []*Account) {
	for _, a := range accounts {
		q.Of(a)
	}
}

// Learn takes what the fleet says of a user whose share it was told: when the
// period began, and what was moved elsewhere. Where told is false the share was
// of another period, and own is what counts in this one.
func (q *Quotas) Learn(s Share, begin time.Time, elsewhere, own int64, told bool) {
	u := q.usage(s.User)
	u.mu.Lock()
	defer u.mu.Unlock()
	now := u.used - u.elsewhere // it may have moved meanwhile
	if !told {
		now = max(now-s.Own, 0) + own
	}
	if !u.start.Equal(begin) || u.elsewhere != elsewhere || !told {
		u.start, u.elsewhere, u.used = begin, elsewhere, now+elsewhere
		u.dirty()
	}
	u.heard(s.Own)
}

// Unshared has the next Shares name a user again, whose share did not arrive.
func (q *Quotas) Unshared(user string) {
	u := q.usage(user)
	u.mu.Lock()
	u.toldAt = time.Time{}
	u.mu.Unlock()
}
