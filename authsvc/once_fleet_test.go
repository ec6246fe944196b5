package authsvc

import (
	"context"
	"net/netip"
	"testing"
	"time"
)

// slowFleet answers with an entry, and something happens before the answer arrives.
type slowFleet struct {
	entry     []byte
	meanwhile func()
}

func (f *slowFleet) Added(netip.Addr, func() []byte, time.Duration) {}
func (f *slowFleet) Revoked(netip.Addr, time.Duration)              {}
func (f *slowFleet) Ask(context.Context, netip.Addr) []byte         { f.meanwhile(); return f.entry }

// toldFleet keeps what it is told.
type toldFleet struct {
	slowFleet
	told []func() []byte
}

func (f *toldFleet) Added(_ netip.Addr, entry func() []byte, _ time.Duration) {
	f.told = append(f.told, entry)
}

// Another replica has told of a user, who logs in here with a plain password: the hash
// that compares the two was made by whoever logged the user in, a reactor perhaps, while
// nobody could look into the table.
func TestLogInTakesNoSeal(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.1")
	replica := func() (*Once, *Users, *toldFleet) {
		once, m := newOnce(OnceOptions{Max: 10, TTL: time.Hour}, "")
		users, err := NewUsers(UsersOptions{User: "alice", Password: "x", Metrics: m})
		if err != nil {
			t.Fatal(err)
		}
		fleet := new(toldFleet)
		once.Join(fleet)
		return once, users, fleet
	}
	there, theirs, _ := replica()
	there.Add(addr, theirs.byName["alice"].identity(MethodPassword))
	hear := func(once *Once) {
		there.Encoded(func(_ netip.Addr, entry []byte, _ time.Duration) {
			if err := once.Learn(entry); err != nil {
				t.Fatal(err)
			}
		})
	}
	here, ours, fleet := replica()
	hear(here)
	alice := ours.byName["alice"]
	here.Add(addr, alice.identity(MethodPassword))
	if alice.secret.sealsAtOnce() || len(fleet.told) != 1 {
		t.Fatalf("the seal is made: %v; the fleet is told %d times, and that makes it", alice.secret.sealsAtOnce(), len(fleet.told))
	}
	fleet.told[0]()
	hear(here)
	here.Add(addr, alice.identity(MethodPassword))
	if len(fleet.told) != 1 {
		t.Error("the fleet is told again of what it has told")
	}
}

// An address was revoked after the store had told of it, and before the answer was
// taken in: it was let in again, for as long as auth-once lasts.
func TestAnswerIsOlderThanARevocation(t *testing.T) {
	addr, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	options := OnceOptions{Max: 10, TTL: time.Hour}
	elsewhere, _ := newOnce(options, "")
	elsewhere.Add(addr, Identity{User: "u", Method: MethodPassword})
	var entry []byte
	elsewhere.Encoded(func(_ netip.Addr, e []byte, _ time.Duration) { entry = e })
	for _, tt := range []struct {
		name      string
		meanwhile func(*Once)
		known     bool
	}{
		{"nothing happens", func(*Once) {}, true},
		{"it is revoked here", func(o *Once) { o.Revoke(addr) }, false},
		{"it is revoked elsewhere", func(o *Once) { o.Forget(addr) }, false},
		{"another is revoked", func(o *Once) { o.Revoke(other) }, true},
		{"somebody logs in again", func(o *Once) { o.Revoke(addr); o.Add(addr, Identity{User: "new", Method: MethodPassword}) }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			once, _ := newOnce(options, "")
			fleet := &slowFleet{entry: entry, meanwhile: func() { tt.meanwhile(once) }}
			once.Join(fleet)
			_, answered := once.LookupElsewhere(t.Context(), addr)
			if _, known := once.Lookup(addr); known != tt.known || answered != tt.known {
				t.Errorf("answered %v, known %v; want %v", answered, known, tt.known)
			}
			if len(once.inquiries) > 0 {
				t.Errorf("%d inquiries are left", len(once.inquiries))
			}
			fleet.meanwhile = func() {}
			if _, known := once.LookupElsewhere(t.Context(), addr); !known {
				t.Error("an answer from after the revocation is not taken")
			}
		})
	}
}
