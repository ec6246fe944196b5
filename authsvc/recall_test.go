package authsvc

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"

	"cleversocks/metrics"
)

func passwordTry(user, word string) *Attempt {
	return &Attempt{Credentials: Password{User: []byte(user), Password: []byte(word)}, Source: home}
}

func recallRig(t *testing.T, o AdmissionOptions) (*Admission, *metrics.Registry) {
	t.Helper()
	m := metrics.New()
	users, err := NewUsers(UsersOptions{
		Users: []UserEntry{
			{Account: Account{Name: "alice", Groups: []string{"staff"}}, PasswordHash: cheap("secret", 8)},
			{Account: Account{Name: "asleep", Validity: Validity{Disabled: true}}, PasswordHash: cheap("secret", 8)},
			{Account: Account{Name: "nopass"}},
		},
		User: "single", Password: "plain", Queue: NewQueue(QueueOptions{}), Metrics: &m.Auth,
	})
	if err != nil {
		t.Fatal(err)
	}
	o.Authenticators = []Authenticator{users, NewUserIDs(users)}
	o.Accounts, o.Outcomes, o.Refused = users.Account, m.Conn.Auth, m.Auth.Refused
	return NewAdmission(o), m
}

// What is known to be right is said at once, and counted as Verify does; all
// else is for Verify, which finds the attempt as it was.
func TestRecall(t *testing.T) {
	for name, tt := range map[string]struct {
		try     *Attempt
		decided bool // once a log-in has been right
		ok      bool
	}{
		"hashed":                    {passwordTry("alice", "secret"), true, true},
		"with parameters":           {passwordTry("alice+session-x", "secret"), true, true},
		"plain":                     {passwordTry("single", "plain"), true, true},
		"wrong":                     {passwordTry("alice", "Secret"), false, false},
		"nobody":                    {passwordTry("eve", "secret"), false, false},
		"may not come":              {passwordTry("asleep", "secret"), false, false},
		"user id":                   {&Attempt{Credentials: UserID("nopass"), Source: home}, true, true},
		"optional, nobody's":        {&Attempt{Credentials: UserID("eve"), Source: home, Optional: true}, true, false},
		"nobody's":                  {&Attempt{Credentials: UserID("eve"), Source: home}, false, false},
		"of a kind that nobody has": {&Attempt{Credentials: Token{Bytes: []byte("x")}, Source: home}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			a, m := recallRig(t, AdmissionOptions{Parameters: "+", Throttle: NewThrottle(ThrottleOptions{Max: 5}, StateOptions{Metrics: &metrics.New().Auth})})
			first := *tt.try
			if grant, err := a.Verify(t.Context(), &first); (err == nil) != tt.ok {
				t.Fatalf("Verify = %+v, %v", grant, err)
			}
			hashes := m.Auth.Hashed.Get()
			grant, decided, err := a.Recall(tt.try)
			if decided != tt.decided || decided && (err == nil) != tt.ok {
				t.Fatalf("Recall = %+v, %t, %v", grant, decided, err)
			}
			if !decided {
				if grant, err = a.Verify(t.Context(), tt.try); (err == nil) != tt.ok {
					t.Fatalf("Verify after it = %+v, %v", grant, err)
				}
			}
			if decided && m.Auth.Hashed.Get() != hashes {
				t.Error("a password was hashed")
			}
			if tt.ok && grant.Identity.User == "" {
				t.Error("no user")
			}
			if name == "with parameters" && grant.Identity.Parameters.Session != "x" {
				t.Errorf("parameters %+v", grant.Identity.Parameters)
			}
			if name == "hashed" {
				if n := m.Conn.Auth.Of("password", "ok").Get(); n != 2 {
					t.Errorf("%d log-ins counted", n)
				}
				if n := m.Auth.Remembered.Get(); n != 1 {
					t.Errorf("%d remembered", n)
				}
			}
		})
	}
}

// A reactor asks for each connection, so that what is remembered costs no memory.
// (The race detector allocates by itself.)
func TestRecallAllocatesNothing(t *testing.T) {
	a, _ := recallRig(t, AdmissionOptions{Throttle: NewThrottle(ThrottleOptions{Max: 5}, StateOptions{Metrics: &metrics.New().Auth})})
	for _, try := range []*Attempt{passwordTry("alice", "secret"), passwordTry("single", "plain")} {
		if _, err := a.Verify(t.Context(), try); err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(1000, func() {
			if _, decided, err := a.Recall(try); !decided || err != nil {
				t.Fatal(decided, err)
			}
		}); n > 0 && !raceEnabled {
			t.Errorf("%s: %g allocations", try.Credentials.Name(), n)
		}
	}
}

// A source that opens a thousand connections at once, each with another guess,
// has no more guesses by Recall than one at a time: the right one among them is
// found only if it is one of the first.
func TestRecallGivesNoMoreGuesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := recallRig(t, AdmissionOptions{Throttle: NewThrottle(ThrottleOptions{Max: 3}, StateOptions{Metrics: &metrics.New().Auth})})
		elsewhere := passwordTry("alice", "secret")
		elsewhere.Source = away
		if _, err := a.Verify(t.Context(), elsewhere); err != nil {
			t.Fatal(err)
		}
		var tries []*Attempt
		for _, word := range []string{"1", "2", "3"} {
			try := passwordTry("alice", word)
			if _, decided, _ := a.Recall(try); decided {
				t.Fatal("a wrong password was right")
			}
			tries = append(tries, try)
		}
		right := passwordTry("alice", "secret")
		if _, decided, _ := a.Recall(right); decided {
			t.Fatal("a guess too many was looked up")
		}
		for _, try := range append(tries, right) {
			if _, err := a.Verify(t.Context(), try); err == nil {
				t.Error("let in")
			}
		}
		again := passwordTry("alice", "secret")
		if _, decided, _ := a.Recall(again); decided {
			t.Error("a banned source was let in")
		}
		if _, err := a.Verify(t.Context(), again); !errors.Is(err, &Refusal{Reason: ReasonBanned}) {
			t.Errorf("a banned source: %v", err)
		}
	})
}

// Connections that leave before their password was hashed give their tries back.
func TestAbandonedTriesAreGivenBack(t *testing.T) {
	throttle := NewThrottle(ThrottleOptions{Max: 2}, StateOptions{Metrics: &metrics.New().Auth})
	a, _ := recallRig(t, AdmissionOptions{Throttle: throttle})
	var tries []*Attempt
	for _, word := range []string{"1", "2", "3", "3"} { // two in flight, one in line, one that joins it
		try := passwordTry("alice", word)
		a.Recall(try)
		tries = append(tries, try)
	}
	for _, try := range tries {
		try.Abandon()
		try.Abandon()
	}
	try := passwordTry("alice", "secret")
	try.Source = netip.MustParseAddr("192.0.2.7")
	if _, err := a.Verify(t.Context(), try); err != nil {
		t.Error(err)
	}
	source := throttle.shard(home).sources[home]
	if source.flight != 0 || len(source.tries) != 0 || len(source.waiting) != 0 {
		t.Errorf("%d in flight, %d tries, %d waiting", source.flight, len(source.tries), len(source.waiting))
	}
}
