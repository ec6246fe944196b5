package authsvc

import (
	"context"
	"net/netip"
)

// Who need not log in.

// Free is the identity of a client that need not log in: its address is on
// the whitelist, or a user who may still come from there logged in from it a
// while ago, or nobody has to. free is false when it has to.
func (a *Admission) Free(source netip.Addr) (id Identity, free bool) {
	if a.whitelist.Contains(source) {
		return Identity{Method: MethodWhitelist}, true
	}
	if a.once != nil && source.IsValid() {
		if entry, known := a.once.Lookup(source); known {
			if id, err := a.holds(entry.identity(), source); err == nil {
				return id, true
			}
		}
	}
	return Identity{Method: MethodNone}, !a.required
}

// FreeAtOnce reports whether Free takes no more than a look, as it nearly always does.
func (a *Admission) FreeAtOnce(source netip.Addr) bool {
	if a.once == nil || !a.once.sealed.Load() || !source.IsValid() || a.whitelist.Contains(source) {
		return true
	}
	entry, known := a.once.Lookup(source)
	if !known {
		return true
	}
	id := entry.identity()
	for _, one := range a.list {
		if users, ok := one.(*Users); ok && one.Method() == id.voucher() {
			return users.holdsAtOnce(id)
		}
	}
	return true
}

// FreeElsewhere is Free for a client that is about to be refused because it has
// not logged in here: it may have logged in at another replica.
func (a *Admission) FreeElsewhere(ctx context.Context, source netip.Addr) (id Identity, free bool) {
	if a.once == nil || !source.IsValid() {
		return Identity{}, false
	}
	entry, known := a.once.LookupElsewhere(ctx, source)
	if !known {
		return Identity{}, false
	}
	id, err := a.holds(entry.identity(), source)
	return id, err == nil
}

// Admitted counts a client that Free let in.
func (a *Admission) Admitted(id Identity) { a.count(id.Method, outcomeOK) }
