package ratelimit

import (
	"net/netip"
	"sync"
	"time"

	"cleversocks/authsvc"
)

// Users limits what each user's connections take together. Only users with an
// account are in it, so the settings bound its size.
type Users struct {
	mu    sync.Mutex
	users map[string]*User
	burst time.Duration // of every bucket; 0: DefaultBurst
}

// User is one user's limits, shared by all of the user's connections and
// kept over reloads.
type User struct {
	Up   Bucket // from the client
	Down Bucket // to the client

	mu   sync.Mutex
	open int
	most int                // 0: any number
	from map[netip.Addr]int // connections, by authsvc.SourceKey
	wide int                // how many of these there may be; 0: any number
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
		u.setBurst(t.burst)
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

// Come asks whether a connection that Enter let in may be from a source, too:
// the user may have few of these at once. Who may owes it one Go, before Leave.
func (u *User) Come(source netip.Addr) bool {
	key := authsvc.SourceKey(source)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.wide > 0 && u.from[key] == 0 && len(u.from) >= u.wide {
		return false
	}
	if u.from == nil {
		u.from = make(map[netip.Addr]int)
	}
	u.from[key]++
	return true
}

// Go gives a source back.
func (u *User) Go(source netip.Addr) {
	key := authsvc.SourceKey(source)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.from[key]--; u.from[key] <= 0 {
		delete(u.from, key)
	}
}

// Open is the number of the user's connections.
func (u *User) Open() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.open
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

func (u *User) set(a *authsvc.Account) {
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
