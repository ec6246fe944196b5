package metrics

import (
	"sync"
	"sync/atomic"

	vm "github.com/VictoriaMetrics/metrics"
)

// Users counts by user, for as many users as labels are reasonable.
type Users struct {
	mu    sync.Mutex
	set   *vm.Set
	full  *Counter // requests of users without a label
	known map[string]*User
	gone  map[string]*User // not in the settings any more, and still connected
	other *User
}

// User is one user's counts.
type User struct {
	BytesIn     *Counter // from the client
	BytesOut    *Counter // to the client
	Connections *Counter
	Active      *atomic.Int64

	names []string // of the series
}

// MaxUserSeries bounds the label "user": who comes later counts as "other".
const MaxUserSeries = 200

func newUsers(set *vm.Set, limits CounterVec) *Users {
	return &Users{set: set, full: limits.Of(LimitUserSeries), known: make(map[string]*User), gone: make(map[string]*User)}
}

// Of is the counts of a user. Look it up once a connection, and only for
// names that the configuration knows.
func (u *Users) Of(name string) *User {
	u.mu.Lock()
	defer u.mu.Unlock()
	if user := u.known[name]; user != nil {
		return user
	}
	if user := u.gone[name]; user != nil { // the name is back
		delete(u.gone, name)
		u.known[name] = user
		return user
	}
	if len(u.known)+len(u.gone) < MaxUserSeries {
		user := u.add(name)
		u.known[name] = user
		return user
	}
	u.full.Inc()
	if u.other == nil {
		u.other = u.add("other")
	}
	return u.other
}

// Retain ends the series of users that the settings have no longer, once their
// last connection has ended, and has their places taken by others.
func (u *Users) Retain(has func(name string) bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for name, user := range u.known {
		if !has(name) {
			delete(u.known, name)
			u.gone[name] = user
		}
	}
	u.forget()
}

// sweep ends what Retain could not end yet.
func (u *Users) sweep() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.forget()
}

// forget ends the series of who has gone. The caller holds mu.
func (u *Users) forget() {
	for name, user := range u.gone {
		if user.Active.Load() > 0 {
			continue
		}
		delete(u.gone, name)
		if u.other != nil && name == "other" {
			continue // it shares the series of those without a label
		}
		for _, s := range user.names {
			u.set.UnregisterMetric(s)
		}
	}
}

// add makes the series, or finds them: a user may be called "other".
func (u *Users) add(name string) *User {
	user := &User{Active: new(atomic.Int64)}
	named := func(family string, labels ...string) string {
		s := series(family, append(labels, "user", name)...)
		user.names = append(user.names, s)
		return s
	}
	user.BytesIn = u.set.GetOrCreateCounter(named("cleversocks_user_bytes_total", "direction", "in"))
	user.BytesOut = u.set.GetOrCreateCounter(named("cleversocks_user_bytes_total", "direction", "out"))
	user.Connections = u.set.GetOrCreateCounter(named("cleversocks_user_connections_total"))
	u.set.GetOrCreateGauge(named("cleversocks_user_connections_active"), func() float64 { return float64(user.Active.Load()) })
	return user
}
