package authsvc

import (
	"net/netip"
	"time"

	"cleversocks/conn/netaddr"
)

// Impose bans the source of addr (unmapped) by hand, for as long as is asked
// and auth_failures.ban_max allows. It reports false where nobody can be
// banned: bans are off, or the source is exempt.
func (t *Throttle) Impose(addr netip.Addr, length time.Duration) (Ban, bool) {
	settings := t.settings.Load()
	if settings.Max <= 0 || settings.exempt.Contains(addr) {
		return Ban{}, false
	}
	key, now := netaddr.SourceKey(addr), time.Now()
	s := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	o := t.offender(s, key, now, settings)
	t.ban(key, o, now, settings) // counts and saves
	o.until = now.Add(min(length, settings.BanMax))
	b := Ban{Source: netaddr.SourcePrefix(key), Since: now, Until: o.until, Level: o.level}
	if t.fleet != nil && !netaddr.IsLocalUser(key) {
		t.fleet.Imposed(b, settings.ThrottleOptions)
	}
	return b, true
}

// Vouch is the identity of a user as after a log-in, for an operator who lets
// an address in as that user.
func (u *Users) Vouch(name string) (Identity, bool) {
	entry := u.byName[name]
	if entry == nil {
		return Identity{}, false
	}
	return entry.identity(MethodPassword), true
}
