package authsvc

import (
	"testing"
	"time"

	"cleversocks/metrics"
)

// What is behind the separator is parameters, if all of it is; else it is a part
// of the name.
func TestSplitParameters(t *testing.T) {
	for name, want := range map[string]struct {
		user string
		p    Parameters
	}{
		"alice":                       {"alice", Parameters{}},
		"alice+session-x":             {"alice", Parameters{Session: "x"}},
		"alice+session-a-b+ttl-10m":   {"alice", Parameters{Session: "a-b", TTL: 10 * time.Minute}},
		"alice+ttl-90s+session-1":     {"alice", Parameters{Session: "1", TTL: 90 * time.Second}},
		"+session-x":                  {"+session-x", Parameters{}},
		"alice+":                      {"alice+", Parameters{}},
		"alice+session-":              {"alice+session-", Parameters{}},
		"alice+session":               {"alice+session", Parameters{}},
		"alice+country-us":            {"alice+country-us", Parameters{}},
		"alice+ttl-0s":                {"alice+ttl-0s", Parameters{}},
		"alice+session-x+session-y":   {"alice+session-x+session-y", Parameters{}},
		"alice+ttl-10m+ttl-20m":       {"alice+ttl-10m+ttl-20m", Parameters{}},
		"alice+ttl-9999999999999999h": {"alice+ttl-9999999999999999h", Parameters{}},
	} {
		if user, p := SplitParameters(name, "+"); user != want.user || p != want.p {
			t.Errorf("%s: %q %+v", name, user, p)
		}
	}
	if user, p := SplitParameters("alice+session-x", ""); user != "alice+session-x" || p != (Parameters{}) {
		t.Error("without a separator there are parameters")
	}
}

// A session chooses the same way out at all times, or for as long as it lives.
func TestSessionOfIdentity(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	id := Identity{User: "alice", Parameters: Parameters{Session: "x"}}
	if id.Session(at) != id.Session(at.AddDate(1, 0, 0)) || id.Session(at) == "" {
		t.Error("a session without an end changes")
	}
	id.Parameters.TTL = time.Minute
	changes, last := 0, id.Session(at)
	for i := range 600 {
		if now := id.Session(at.Add(time.Duration(i) * time.Second)); now != last {
			changes, last = changes+1, now
		}
	}
	if changes != 10 {
		t.Errorf("%d changes in ten minutes, the session lives one", changes)
	}
	if other := (&Identity{User: "bob", Parameters: Parameters{Session: "x"}}); other.Session(at) == (&Identity{User: "alice", Parameters: Parameters{Session: "x"}}).Session(at) {
		t.Error("two users share a session")
	}
	if (&Identity{User: "alice"}).Session(at) != "" {
		t.Error("a session that nobody has named")
	}
}

// Who logs in with parameters is the user without them.
func TestVerifyTakesParametersOff(t *testing.T) {
	users, err := NewUsers(UsersOptions{User: "alice", Password: "secret", Metrics: &metrics.New().Auth})
	if err != nil {
		t.Fatal(err)
	}
	for separator, want := range map[string]string{"+": "x", "": ""} {
		a := NewAdmission(AdmissionOptions{Authenticators: []Authenticator{users}, Accounts: users.Account, Parameters: separator})
		try := &Attempt{Credentials: Password{User: []byte("alice+session-x"), Password: []byte("secret")}}
		grant, err := a.Verify(t.Context(), try)
		if ok := err == nil; ok != (want != "") {
			t.Fatalf("separator %q: %v", separator, err)
		}
		if err == nil && (grant.Identity.User != "alice" || grant.Identity.Parameters.Session != want) {
			t.Errorf("%+v", grant.Identity.Parameters)
		}
	}
}
