package conn

import (
	"bytes"
	"context"
	"net/netip"
	"testing"
	"time"

	"cleversocks/authsvc"
	"cleversocks/metrics"
)

// A client that auth-once has let in before a restart comes in after it, though it takes
// a hash to find out: which is a task's work, and not that of a reactor with thousands of
// tunnels.
func TestLetInBeforeARestart(t *testing.T) {
	g, m := newTestGroup(t, true)
	alice := func() *authsvc.Users {
		users, err := authsvc.NewUsers(authsvc.UsersOptions{User: "alice", Password: "x", Metrics: &m.Auth, Queue: authsvc.NewQueue(authsvc.QueueOptions{})})
		if err != nil {
			t.Fatal(err)
		}
		return users
	}
	here := netip.MustParseAddr("127.0.0.1")
	id, err := alice().Verify(t.Context(), here, []byte("alice"), []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	state := authsvc.StateOptions{Directory: t.TempDir(), Metrics: &metrics.New().Auth}
	options := authsvc.OnceOptions{TTL: time.Hour, Max: 10}
	before := authsvc.NewOnce(options, state)
	before.Add(here, id)
	ended, end := context.WithCancel(t.Context())
	end()
	_ = before.Serve(ended) // saves
	policy := *g.Policy()
	policy.Auth = authsvc.NewAdmission(authsvc.AdmissionOptions{
		Required: true, Once: authsvc.NewOnce(options, state), Authenticators: []authsvc.Authenticator{alice()},
	})
	g.SetPolicy(&policy)
	to := sinkServer(t)
	for n := range 2 {
		if policy.Auth.FreeAtOnce(here) != (n > 0) {
			t.Errorf("connection %d: it takes a hash the first time alone", n)
		}
		got := talk(t, g, []byte(sessions(to)["socks5"][0]+"hello"))
		if !bytes.HasPrefix(got, []byte{5, 0, 5, 0}) || !bytes.HasSuffix(got, []byte("got:hello")) {
			t.Errorf("answer %q", got)
		}
	}
}
