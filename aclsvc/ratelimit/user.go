package ratelimit

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"cleversocks/authsvc"
	"cleversocks/conn/netaddr"
)

// Users limits what each user's connections take together. Only users with an
// account are in it, so the settings bound its size.
type Users struct {
	mu    sync.Mutex
	users map[string]*User
	burst time.Duration // of every bucket; 0: DefaultBurst
	fleet Fleet         // nil: there are no other replicas
}

// Fleet counts what users have on all replicas. Its methods may wait for a
// few milliseconds, and no longer.
type Fleet interface {
	// Enter asks for one more connection of a user from a source, an
	// netaddr.SourceKey, and says TooMany, TooWide or Unknown if it may not
	// be; most and wide are as in Account. Who is Admitted owes it a Leave.
	// holder (nil: nobody) may be asked to end the connection soon after.
	Enter(ctx context.Context, user string, source netip.Addr, most, wide int, holder Holder) Verdict
	// EnterNow is Enter where nobody has to be asked, and does not wait; false: Enter
	// would.
	EnterNow(user string, source netip.Addr, most, wide int) bool
	Leave(user string, source netip.Addr)
}

// Holder is who has a connection.
type Holder interface {
	// EndSurplus ends the connection: it was let in by what was known, since the
	// fleet's answer was late, and by that answer it is one too many. It does not
	// wait.
	EndSurplus()
}

// User is one user's limits, shared by all of the user's connections and
// kept over reloads.
type User struct {
	Up   Bucket // from the client
	Down Bucket // to the client

	name  string
	fleet Fleet

	known bool // the limits are those of an account; Users' lock guards it

	mu   sync.Mutex
	open int
	most int                // 0: any number
	from map[netip.Addr]int // connections, by netaddr.SourceKey
	wide int                // how many of these there may be; 0: any number
	// away and elsewhere are as open and from, of other processes.
	away      int
	elsewhere map[netip.Addr]int
}

// NewUsers makes an empty table.
func NewUsers() *Users { return &Users{users: map[string]*User{}} }

// Join has users count in a fleet too. Call it before the first Enter.
func (t *Users) Join(f Fleet) { t.fleet = f }

// Enter asks for one connection of the account's user from a source (unmapped).
// Whoever is Admitted gets a User, and owes it one Leave. An account of nil has
// no limits, and gets a User of its own that nobody shares. For holder see Fleet.
func (t *Users) Enter(ctx context.Context, a *authsvc.Account, source netip.Addr, holder Holder) (*User, Verdict) {
	key := netaddr.SourceKey(source)
	if a == nil {
		u := new(User)
		return u, u.enter(key)
	}
	u := t.user(a)
	if v := u.enter(key); v != Admitted || u.fleet == nil {
		return u, v
	}
	most, wide := u.limits()
	v := u.fleet.Enter(ctx, u.name, key, most, wide, holder)
	if v != Admitted {
		u.leave(key)
	}
	return u, v
}

// Asks says whether Enter may have to ask other replicas, and wait for them.
func (t *Users) Asks() bool { return t.fleet != nil }

// EnterNow is Enter where that does not have to ask other replicas, nor wait for
// them; nil: Enter has to decide.
func (t *Users) EnterNow(a *authsvc.Account, source netip.Addr) *User {
	key := netaddr.SourceKey(source)
	u := t.user(a)
	if u.enter(key) != Admitted {
		return nil
	}
	if most, wide := u.limits(); u.fleet != nil && !u.fleet.EnterNow(u.name, key, most, wide) {
		u.leave(key)
		return nil
	}
	return u
}

func (t *Users) user(a *authsvc.Account) *User {
	t.mu.Lock()
	defer t.mu.Unlock()
	u := t.named(a.Name)
	if !u.known {
		u.set(a) // later ones come by Set: a connection of before a reload undoes none
	}
	return u
}

// named is a user, whose limits may not be known yet. The caller holds the
// lock.
func (t *Users) named(name string) *User {
	u := t.users[name]
	if u == nil {
		u = &User{name: name, fleet: t.fleet}
		u.setBurst(t.burst)
		t.users[name] = u
	}
	return u
}

func (u *User) limits() (most, wide int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.most, u.wide
}

func (u *User) enter(key netip.Addr) Verdict {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.most > 0 && u.open+u.away >= u.most:
		return TooMany
	case u.wide > 0 && u.from[key] == 0 && u.elsewhere[key] == 0 && u.sources() >= u.wide:
		return TooWide
	}
	if u.from == nil {
		u.from = make(map[netip.Addr]int)
	}
	u.open++
	u.from[key]++
	return Admitted
}

// sources is how many the user comes from, in all processes. The caller holds
// the lock.
func (u *User) sources() int {
	n := len(u.from)
	for source := range u.elsewhere {
		if u.from[source] == 0 {
			n++
		}
	}
	return n
}

// Leave ends a connection from a source.
func (u *User) Leave(source netip.Addr) {
	key := netaddr.SourceKey(source)
	u.leave(key)
	if u.fleet != nil {
		u.fleet.Leave(u.name, key)
	}
}

func (u *User) leave(key netip.Addr) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.open--
	if u.from[key]--; u.from[key] <= 0 {
		delete(u.from, key)
	}
}

// Open is the number of the user's connections, in all processes.
func (u *User) Open() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.open + u.away
}

// SetBurst changes how far ahead of their rates users may be; 0: DefaultBurst.
func (t *Users) SetBurst(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.burst = d
	for _, u := range t.users {
		u.setBurst(d)
	}
}

func (u *User) setBurst(d time.Duration) {
	u.Up.SetBurst(d)
	u.Down.SetBurst(d)
}

// set takes the limits of an account. The caller holds Users' lock.
func (u *User) set(a *authsvc.Account) {
	u.known = true
	u.Up.Set(a.Up)
	u.Down.Set(a.Down)
	u.mu.Lock()
	u.most, u.wide = a.MaxConnections, a.MaxAddresses
	u.mu.Unlock()
}

// Set takes the accounts of a reload: limits change for connections that are
// open too. A user who is no longer there is forgotten once the last
// connection has left and the next reload comes.
func (t *Users) Set(users *authsvc.Users) {
	now := map[string]*authsvc.Account{}
	users.Accounts(func(a *authsvc.Account) { now[a.Name] = a })
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, u := range t.users {
		if a := now[name]; a != nil {
			u.set(a)
		} else if u.Open() == 0 {
			delete(t.users, name)
		}
	}
}
