package ratelimit

import (
	"sync"
	"time"

	"cleversocks/authsvc"
)

// Users limits what each user's connections take together. Only users with an
// account are in it, so the settings bound its size.
type Users struct {
	mu    sync.Mutex
	users map[string]*User
}

// User is one user's limits, shared by all of the user's connections and
// kept over reloads.
type User struct {
	Up   Bucket // from the client
	Down Bucket // to the client

	mu   sync.Mutex
	open int
	most int // 0: any number
}

// NewUsers makes an empty table.
func NewUsers() *Users { return &Users{users: map[string]*User{}} }

// Enter asks for one connection of the account's user. It returns nil when
// the user has too many; whoever gets a User owes it one Leave. An account of
// nil has no limits, and gets a User of its own that nobody shares.
func (t *Users) Enter(a *authsvc.Account) *User {
	if a == nil {
		return new(User).enter()
	}
	t.mu.Lock()
	u := t.users[a.Name]
	if u == nil {
		u = new(User)
		u.set(a) // later ones come by Set: a connection of before a reload undoes none
		t.users[a.Name] = u
	}
	t.mu.Unlock()
	return u.enter()
}

func (u *User) enter() *User {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.most > 0 && u.open >= u.most {
		return nil
	}
	u.open++
	return u
}

// Leave ends a connection.
func (u *User) Leave() {
	u.mu.Lock()
	u.open--
	u.mu.Unlock()
}

// Open is the number of the user's connections.
func (u *User) Open() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.open
}

func (u *User) set(a *authsvc.Account) {
	u.Up.Set(a.Up)
	u.Down.Set(a.Down)
	u.mu.Lock()
	u.most = a.MaxConnections
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

// Bucket spreads bytes over time: a second's worth at once, then the rate.
// The zero value limits nothing.
type Bucket struct {
	mu   sync.Mutex
	rate int64     // bytes a second; 0: no limit
	due  time.Time // when all that was moved would have been, at the rate
}

// burst is how far ahead of the rate a user may be.
const burst = time.Second

// maxPause bounds one pause below the idle timeout's default. A relay moves at
// most 256 KiB at a time, so rates down to some 440 bytes a second hold.
const maxPause = 10 * time.Minute

// Set changes the rate, in bytes a second; 0 or less: no limit. What was
// moved before counts no further.
func (b *Bucket) Set(rate int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if rate = max(rate, 0); rate != b.rate {
		b.rate, b.due = rate, time.Time{}
	}
}

// Take counts n bytes that are about to move, if they may now; else they are
// to be dropped, and count for nothing.
func (b *Bucket) Take(n int64) bool {
	b.mu.Lock()
	late := b.rate > 0 && time.Until(b.due) > burst
	b.mu.Unlock()
	if late {
		return false
	}
	b.Moved(n)
	return true
}

// Moved counts n bytes that have been moved and says how long to wait before
// the next; 0: not at all. All connections of a user share the wait: each
// adds to what is due. It is the shape of the relay's meter.
func (b *Bucket) Moved(n int64) (pause time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rate == 0 {
		return 0
	}
	now := time.Now()
	if b.due.Before(now) {
		b.due = now
	}
	// Whole seconds apart, and bounded, so that nothing overflows.
	b.due = b.due.Add(time.Duration(min(n/b.rate, 3600)) * time.Second).
		Add(time.Duration(float64(n%b.rate) / float64(b.rate) * float64(time.Second)))
	return min(max(b.due.Sub(now)-burst, 0), maxPause)
}
