package authsvc

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"cleversocks/metrics"
)

// Whoever auth-once has let in before a restart or an upgrade is known by a seal, which
// for a plain password takes a hash to compare: on a reactor all of its tunnels waited
// for that, for each user, and again after each reload. Now a task makes it, once, as
// long as the password stays.
func TestSealIsMadeOnce(t *testing.T) {
	m := &metrics.New().Auth
	generation := func(password string, before *Users) *Users {
		t.Helper()
		u, err := NewUsers(UsersOptions{User: "alice", Password: password, Before: before, Metrics: m})
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	first := generation("x", nil)
	addr := netip.MustParseAddr("192.0.2.7")
	let := NewOnce(OnceOptions{TTL: time.Hour, Max: 10}, StateOptions{Metrics: m})
	let.Add(addr, first.byName["alice"].identity(MethodPassword))
	saved, err := json.Marshal(let.saved())
	if err != nil {
		t.Fatal(err)
	}
	// After a restart.
	again := NewOnce(OnceOptions{TTL: time.Hour, Max: 10}, StateOptions{Metrics: m})
	if err := again.restore(saved); err != nil {
		t.Fatal(err)
	}
	admission := func(u *Users) *Admission {
		return NewAdmission(AdmissionOptions{Required: true, Once: again, Authenticators: []Authenticator{u}})
	}
	users := generation("x", nil)
	a := admission(users)
	if a.FreeAtOnce(addr) || !a.FreeAtOnce(netip.MustParseAddr("192.0.2.8")) {
		t.Error("it takes a hash, for that address alone")
	}
	if id, free := a.Free(addr); !free || id.User != "alice" {
		t.Errorf("%+v, free %v", id, free)
	}
	if !a.FreeAtOnce(addr) {
		t.Error("it takes a hash again")
	}
	users = generation("x", users)
	if a = admission(users); !a.FreeAtOnce(addr) {
		t.Error("it takes a hash again after a reload")
	}
	if _, free := a.Free(addr); !free {
		t.Error("not let in after a reload")
	}
	users = generation("y", users)
	if a = admission(users); a.FreeAtOnce(addr) {
		t.Error("the seal of another password is taken for this one's")
	}
	if _, free := a.Free(addr); free {
		t.Error("let in by the password of before")
	}
}
