package authsvc

import (
	"context"
	"encoding/json"
	"net/netip"
	"time"

	"cleversocks/conn/netaddr"
)

// What follows is how the tables of this package are those of several replicas.
// Each table is told who carries its changes to the others, before it is used,
// and learns what the others have done. Package shared does that.

// BanFleet carries a Throttle's changes to other replicas. Its methods do not
// wait; sources are netaddr.SourceKeys.
type BanFleet interface {
	// Failed is a failed log-in, and the ban that it brought here; the zero Ban
	// if it brought none.
	Failed(source netip.Addr, terms ThrottleOptions, ban Ban)
	// Imposed is a ban by an operator.
	Imposed(b Ban, terms ThrottleOptions)
	// Lifted is the end of a ban by an operator.
	Lifted(source netip.Addr)
}

// Join has the table be one of several.
func (t *Throttle) Join(f BanFleet) { t.fleet = f }

// OnBan has f hear of each ban that failures bring, here or at another replica.
// It must not wait, nor ask the table. Call it before the first Begin.
func (t *Throttle) OnBan(f func(Ban)) { t.banned = f }

// Learn takes a ban as the fleet has it, in the place of what is known here. It
// reports false if it changes nothing, or is of a source that nobody may ban.
func (t *Throttle) Learn(b Ban) bool {
	now, settings := time.Now(), t.settings.Load()
	key := netaddr.SourceKey(b.Source.Addr())
	if settings.Max <= 0 || settings.exempt.Contains(key) || !key.IsValid() || !now.Before(b.Until) {
		return false
	}
	s := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	o := t.offender(s, key, now, settings)
	banned := o.banned(now, settings)
	if difference := b.Until.Sub(o.until); banned && o.level == b.Level && difference.Abs() < time.Second {
		return false // it is that one
	}
	t.unban(o)
	o.failures, o.level, o.since, o.until, o.by = nil, b.Level, b.Since, b.Until, b.Replica
	o.banned(now, settings) // cuts it to the longest
	t.bans.Add(1)
	if !banned {
		t.metrics.BansActive.Add(1)
	}
	if t.banned != nil {
		t.banned(b)
	}
	t.file.dirty.Store(true)
	return true
}

// OnceFleet carries auth-once to other replicas. Added and Revoked do not wait.
type OnceFleet interface {
	// Added lets an address in for a while; entry is for Once.Learn, and may
	// take its time.
	Added(addr netip.Addr, entry func() []byte, ttl time.Duration)
	// Revoked lets it in no more. ttl is how long other replicas may remember it.
	Revoked(addr netip.Addr, ttl time.Duration)
	// Ask is the entry of an address that is not known here; nil: nobody knows
	// it, or it is not known in time.
	Ask(ctx context.Context, addr netip.Addr) []byte
}

// Join has the table be one of several.
func (t *Once) Join(f OnceFleet) { t.fleet = f }

// share tells the fleet of an entry that was made here.
func (t *Once) share(e *OnceEntry) {
	copied := *e
	t.fleet.Added(e.Addr, func() []byte { return copied.Encode() }, time.Until(e.Until))
}

// Encode is an entry for Learn.
func (e *OnceEntry) Encode() []byte {
	text, err := json.Marshal(e.saved()) //nolint:gosec // as in the state file: a seal, which is worth no more than a hash
	if err != nil {
		return nil // its types are ours: it cannot be
	}
	return text
}

// Learn takes a log-in that another replica tells of, in the place of what is known
// of its address here.
func (t *Once) Learn(entry []byte) error { return t.learn(entry, teller{fleet: true, news: true}) }

func (t *Once) learn(entry []byte, told teller) error {
	list := append(append([]byte{'['}, entry...), ']')
	return t.take(list, told)
}

// Encoded are all entries for Learn, and for how long each still holds.
func (t *Once) Encoded(each func(addr netip.Addr, entry []byte, ttl time.Duration)) {
	for _, e := range t.List() {
		each(e.Addr, e.Encode(), time.Until(e.Until))
	}
}

// LookupElsewhere is Lookup in the whole fleet, for a client that has nothing
// else to be let in by. It returns within the budget of a call.
func (t *Once) LookupElsewhere(ctx context.Context, addr netip.Addr) (OnceEntry, bool) {
	if e, ok := t.Lookup(addr); ok || t.fleet == nil {
		return e, ok
	}
	asked := t.inquire(addr)
	defer t.answered(addr, asked)
	entry := t.fleet.Ask(ctx, addr)
	if entry == nil || t.learn(entry, teller{fleet: true, asked: asked}) != nil {
		return OnceEntry{}, false
	}
	return t.Lookup(addr)
}

// inquiry is what the fleet is asked about an address, by one or more at a time. Its
// answer takes a while: one from before a revocation must not let the address in
// again.
type inquiry struct {
	askers   int
	outdated bool // the address was revoked since
}

func (t *Once) inquire(addr netip.Addr) *inquiry {
	t.mu.Lock()
	defer t.mu.Unlock()
	asked := t.inquiries[addr]
	if asked == nil {
		asked = new(inquiry)
		if t.inquiries == nil {
			t.inquiries = make(map[netip.Addr]*inquiry)
		}
		t.inquiries[addr] = asked
	}
	asked.askers++
	return asked
}

func (t *Once) answered(addr netip.Addr, asked *inquiry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if asked.askers--; asked.askers == 0 && t.inquiries[addr] == asked {
		delete(t.inquiries, addr)
	}
}

// outdate is for an address that is revoked: who asks from now on has an inquiry of
// its own. The caller holds the lock.
func (t *Once) outdate(addr netip.Addr) {
	if asked := t.inquiries[addr]; asked != nil {
		asked.outdated = true
		delete(t.inquiries, addr)
	}
}

// Forget is Revoke on this replica.
func (t *Once) Forget(addr netip.Addr) bool { return t.remove(addr) }
