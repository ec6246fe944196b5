package authsvc

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"cleversocks/metrics"
)

func TestHours(t *testing.T) {
	for _, c := range []struct {
		hours, at string
		in        bool
	}{
		{"mon-fri 08:00-18:00 Europe/Berlin", "2026-11-30T07:00:00Z", true}, // a Monday, 08:00 there
		{"mon-fri 08:00-18:00 Europe/Berlin", "2026-11-30T06:59:59Z", false},
		{"mon-fri 08:00-18:00 Europe/Berlin", "2026-11-30T17:00:00Z", false},
		{"mon-fri 08:00-18:00 Europe/Berlin", "2026-07-06T06:00:00Z", true}, // summer time
		{"mon-fri 08:00-18:00 Europe/Berlin", "2026-11-29T10:00:00Z", false},
		{"fri 22:00-06:00", "2026-12-05T05:59:00Z", true}, // Saturday, of the span that began on Friday
		{"fri 22:00-06:00", "2026-12-04T05:59:00Z", false},
		{"sat,sun 00:00-24:00", "2026-11-29T23:59:59Z", true},
		{"fri-mon 00:00-24:00", "2026-12-01T00:00:00Z", false},
		{"daily 10:00-11:00", "2026-12-01T10:30:00Z", true},
		{"daily 23:00-01:00 Pacific/Auckland", "2026-12-31T11:30:00Z", true}, // over the end of a year
		{"daily 23:00-01:00 Pacific/Auckland", "2026-12-31T12:00:00Z", false},
	} {
		h, err := ParseHours(c.hours)
		if err != nil {
			t.Fatal(err)
		}
		now, _ := time.Parse(time.RFC3339, c.at)
		if h.Contains(now) != c.in {
			t.Errorf("%s at %s: %v, want %v", c.hours, c.at, !c.in, c.in)
		}
		if next := h.next(now); !next.After(now) || h.Contains(next) == h.Contains(next.Add(-time.Second)) {
			t.Errorf("%s at %s: nothing changes at %s", c.hours, c.at, next)
		}
	}
	// On a day on which the clocks are changed it is still what they show that counts: an
	// hour is left out in spring, and comes twice in autumn.
	for _, c := range []struct {
		hours, at string
		in        bool
	}{
		{"sun 01:30-02:30 Europe/Berlin", "2026-03-29T00:59:59Z", true},
		{"sun 01:30-02:30 Europe/Berlin", "2026-03-29T01:00:00Z", false}, // 03:00 by now
		{"sun 02:30-03:30 Europe/Berlin", "2026-03-29T01:29:59Z", true},
		{"sun 02:30-03:30 Europe/Berlin", "2026-10-25T00:45:00Z", true}, // 02:45, the first time
		{"sun 02:30-03:30 Europe/Berlin", "2026-10-25T01:15:00Z", false},
		{"sun 02:30-03:30 Europe/Berlin", "2026-10-25T01:45:00Z", true},
		{"sat 22:00-06:00 Europe/Berlin", "2026-10-25T04:59:59Z", true},
		{"sat 22:00-06:00 Europe/Berlin", "2026-10-25T05:00:00Z", false},
	} {
		h, err := ParseHours(c.hours)
		if err != nil {
			t.Fatal(err)
		}
		now, _ := time.Parse(time.RFC3339, c.at)
		if h.Contains(now) != c.in || !h.next(now).After(now) {
			t.Errorf("%s at %s: %v, want %v; next %s", c.hours, c.at, !c.in, c.in, h.next(now))
		}
	}
	for _, bad := range []string{"", "mon", "mon 8", "mon 08:00-08:00", "mon 08:00-25:00", "mon 08:60-09:00", "xyz 08:00-09:00", "mon 08:00-09:00 Nowhere", "mon 08:00-09:00 Local"} {
		if _, err := ParseHours(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// The right password of a user who may not come now is a refusal of its own
// reason that bans nobody; a wrong one is what it is for everybody. Auth-once
// does not let such a user in either.
func TestLapsedUserIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New()
		entry := UserEntry{Account: Account{Name: "alice", Validity: Validity{Until: time.Now().Add(time.Hour)}}, Password: "right"}
		users, err := NewUsers(UsersOptions{Users: []UserEntry{entry}, AllowPlain: true, Queue: NewQueue(QueueOptions{}), Metrics: &m.Auth})
		if err != nil {
			t.Fatal(err)
		}
		state := StateOptions{Metrics: &m.Auth}
		throttle := NewThrottle(ThrottleOptions{Max: 2, Window: time.Hour, Ban: time.Hour, BanMax: time.Hour}, state)
		a := NewAdmission(AdmissionOptions{
			Required: true, Authenticators: []Authenticator{users}, Accounts: users.Account, Throttle: throttle,
			Once: NewOnce(OnceOptions{TTL: 24 * time.Hour, Max: 10}, state), Refused: m.Auth.Refused, Outcomes: m.Conn.Auth,
		})
		source := netip.MustParseAddr("192.0.2.1")
		try := func(password string) error {
			_, err := a.Verify(t.Context(), &Attempt{Credentials: Password{User: []byte("alice"), Password: []byte(password)}, Source: source})
			return err
		}
		if err := try("right"); err != nil {
			t.Fatal(err)
		}
		id, free := a.Free(source)
		if !free || a.Lapsed(id) != nil {
			t.Fatal("auth-once does not know the source")
		}
		time.Sleep(time.Hour) //nolint:forbidigo // the clock of the bubble
		if _, free := a.Free(source); free {
			t.Error("auth-once lets an expired user in")
		}
		if refusal := a.Lapsed(id); refusal == nil || refusal.Reason != ReasonOver {
			t.Errorf("open session: %v", refusal)
		}
		for range 5 {
			if refusal, ok := try("right").(*Refusal); !ok || refusal.Reason != ReasonOver { //nolint:errorlint // the type is the point
				t.Fatalf("refusal %v, want %s", refusal, ReasonOver)
			}
		}
		if throttle.Banned(source) {
			t.Error("the right password brought a ban")
		}
		if refusal, ok := try("wrong").(*Refusal); !ok || refusal.Reason != ReasonCredentials { //nolint:errorlint // the type is the point
			t.Errorf("a wrong password: %v", refusal)
		}
	})
}
