package conn

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"cleversocks/aclsvc"
	"cleversocks/authsvc"
	"cleversocks/conn/dial"
	"cleversocks/conn/handshake"
	"cleversocks/conn/netaddr"
	"cleversocks/conn/upstream"
	"cleversocks/conn/wire"
	"cleversocks/resolver"
)

// decider is a group whose rules and forwarding rules say something of every
// kind, and which remembers one name; no other may be asked for.
func decider(t *testing.T) (*Group, *Policy) {
	t.Helper()
	g, m := newTestGroup(t, true)
	policy := *g.Policy()
	acl, err := aclsvc.Compile(aclsvc.Options{DefaultAllow: true, Rules: []aclsvc.Rule{
		{Action: "deny", To: []string{"192.0.2.66", "denied.test"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	policy.ACL, policy.Decisions = acl, m.ACL.Decisions([]string{"acl.rules[0]"})
	policy.Routes = router(t,
		upstream.Rule{To: []string{"rejected.test", "192.0.2.99"}, Upstream: "reject"},
		upstream.Rule{To: []string{"far.test"}, Upstream: "exit"},
		upstream.Rule{To: []string{"renamed.test"}, Upstream: "direct", Rewrite: "known.test:0"},
		upstream.Rule{To: []string{"192.0.2.3"}, Upstream: "direct", Rewrite: "192.0.2.4:8080"},
	)
	here := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	bad := []netip.Addr{netip.MustParseAddr("192.0.2.66")}
	policy.Dialer = dial.New(dial.Options{
		ConnectTimeout: patience, Metrics: m.Dial,
		Search: func(name string) []string {
			if strings.Contains(name, ".") {
				return nil
			}
			return []string{name + ".test", name}
		},
		Known: func(name string, families []resolver.Family) (answers [2]resolver.Answer, known bool) {
			all := map[string][]netip.Addr{"known.test": here, "bad.test": bad}[name]
			for i, family := range families {
				if answers[i] = (resolver.Answer{Family: family, Err: resolver.ErrNotFound}); family == resolver.IPv4 {
					answers[i].Addrs, answers[i].Err = all, nil
				}
			}
			return answers, all != nil
		},
		Lookup: func(context.Context, string, resolver.Family) ([]netip.Addr, error) {
			t.Error("a name server was asked")
			return nil, resolver.ErrServers
		},
	})
	g.SetPolicy(&policy)
	return g, &policy
}

func asking(t *testing.T, p *Policy, dest wire.Addr) *session {
	t.Helper()
	return &session{
		ctx: t.Context(), policy: p, identity: authsvc.Identity{Method: authsvc.MethodNone},
		client: netip.MustParseAddrPort("127.0.0.1:1"), request: wire.Request{Command: wire.CommandConnect, Dest: dest},
	}
}

// A reactor may have to open the connection: what is decided without waiting is what
// reach decides, counted once, and everything else is left to reach, uncounted.
func TestDecideWithoutWaiting(t *testing.T) {
	for name, tt := range map[string]struct {
		dest   string
		first  string
		waits  bool
		denied string // the rule
		counts uint64 // decisions
	}{
		"an address":                 {"192.0.2.1:80", "192.0.2.1:80", false, "", 1},
		"a denied address":           {"192.0.2.66:80", "", false, "acl.rules[0]", 1},
		"a rejected address":         {"192.0.2.99:80", "", false, "forward[0]", 0},
		"a rejected name":            {"rejected.test:80", "", false, "forward[0]", 0},
		"an address, written anew":   {"192.0.2.3:80", "192.0.2.4:8080", false, "", 2},
		"a name, written anew":       {"renamed.test:80", "", true, "", 0},
		"through an upstream":        {"far.test:80", "", true, "", 0},
		"a name that is remembered":  {"known.test:80", "127.0.0.1:80", false, "", 1},
		"by the search list":         {"known:80", "127.0.0.1:80", false, "", 1},
		"a name that is not":         {"unknown.test:80", "", true, "", 0},
		"a name of a denied address": {"bad.test:80", "", false, "acl.rules[0]", 1},
		"denied by the search list":  {"denied:80", "", true, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			g, policy := decider(t)
			host, port, _ := net.SplitHostPort(tt.dest)
			number, _ := netaddr.ParsePort(port)
			dest, err := wire.ParseHost(host, number)
			if err != nil {
				t.Fatal(err)
			}
			s := asking(t, policy, dest)
			var w way
			err = g.handler.connector.decide(s, &w)
			denied, isDenied := errors.AsType[*deniedError](err)
			switch {
			case errors.Is(err, dial.ErrWaits) != tt.waits, isDenied != (tt.denied != ""), isDenied && denied.rule != tt.denied:
				t.Fatalf("%v", err)
			case err == nil && w.plan.First().String() != tt.first:
				t.Errorf("goes to %s", w.plan.First())
			}
			counted := uint64(0)
			for _, action := range []string{"allow", "deny"} {
				for _, rule := range []string{"acl.rules[0]", "default"} {
					counted += policy.Decisions.Of(action, rule).Get()
				}
			}
			if counted != tt.counts {
				t.Errorf("%d decisions counted, want %d", counted, tt.counts)
			}
		})
	}
}

// What the reactor has begun, a task can end.
func TestFollowTheWay(t *testing.T) {
	g, policy := decider(t)
	to := sinkServer(t)
	s := asking(t, policy, wire.Addr{Name: "known.test", Port: to.Port()})
	var w way
	if err := g.handler.connector.decide(s, &w); err != nil {
		t.Fatal(err)
	}
	w.plan.Pass(nil)
	if err := g.handler.connector.follow(t.Context(), s, &w); err != nil {
		t.Fatal(err)
	}
	defer s.server.Close()
	if s.hostIP != to || !s.local.IsValid() || s.rule != "default" {
		t.Errorf("reached %s from %s by %s, want %s", s.hostIP, s.local, s.rule, to)
	}
}

// A connection that ends between a reactor, which cannot decide on its password, and
// the task that would, kept one of its source's tries for good: for want of a
// descriptor for the task, for one.
func TestUndecidedLoginIsGivenBack(t *testing.T) {
	g, m := newTestGroup(t, true)
	users, err := authsvc.NewUsers(authsvc.UsersOptions{
		Users: []authsvc.UserEntry{{Account: authsvc.Account{Name: "ann"}, PasswordHash: authsvc.Hash([]byte("s3cret"))}},
		Queue: authsvc.NewQueue(authsvc.QueueOptions{}), Metrics: &m.Auth,
	})
	if err != nil {
		t.Fatal(err)
	}
	policy := *g.Policy()
	policy.Auth = authsvc.NewAdmission(authsvc.AdmissionOptions{
		Authenticators: []authsvc.Authenticator{users},
		Throttle:       authsvc.NewThrottle(authsvc.ThrottleOptions{Max: 1}, authsvc.StateOptions{Metrics: &m.Auth}),
	})
	login := func() (*handshake.Machine, *session) {
		machine := new(handshake.Machine)
		action := machine.Begin(handshake.Options{Spoken: Spoken()})
		for _, sent := range []string{"\x05\x01\x02", "\x01\x03ann\x06s3cret"} {
			action = machine.Feed([]byte(sent))
			if action == handshake.Identify {
				action = machine.Identified(handshake.Terms{Passwords: true, Ways: []authsvc.Kind{authsvc.KindPassword}})
			}
			if action == handshake.Write {
				action = machine.Written()
			}
		}
		if action != handshake.Verify {
			t.Fatalf("the machine wants to %s", action)
		}
		return machine, asking(t, &policy, wire.Addr{})
	}
	lost, s := login()
	if _, decided, _ := g.handler.login.recall(s, lost.Attempt()); decided {
		t.Fatal("decided without a hash")
	}
	lost.Reset()
	next, s := login()
	s.started, policy.Timeouts.Handshake = time.Now(), patience
	if _, err := g.handler.login.verify(s.ctx, s, next.Attempt()); err != nil {
		t.Errorf("the next one: %v", err)
	}
}

// A log-in that is remembered takes no task, and sets what one that is not does.
func TestRecalledLogin(t *testing.T) {
	g, m := newTestGroup(t, true)
	users, err := authsvc.NewUsers(authsvc.UsersOptions{User: "ann", Password: "s3cret", Metrics: &m.Auth})
	if err != nil {
		t.Fatal(err)
	}
	policy := *g.Policy()
	policy.Auth = authsvc.NewAdmission(authsvc.AdmissionOptions{Authenticators: []authsvc.Authenticator{users}})
	s := asking(t, &policy, wire.Addr{})
	for password, right := range map[string]bool{"s3cret": true, "secret": false} {
		given := []byte(password)
		try := &authsvc.Attempt{Credentials: authsvc.Password{User: []byte("ann"), Password: given}}
		_, decided, err := g.handler.login.recall(s, try)
		if decided != right || err != nil {
			t.Fatalf("%q: %t, %v", password, decided, err)
		}
		if !decided {
			s.identity = authsvc.Identity{}
			_, err = g.handler.login.verify(s.ctx, s, try)
		}
		if s.identity.User != "ann" || (err == nil) != right {
			t.Errorf("%q: %+v, %v", password, s.identity, err)
		}
		if string(given) == password {
			t.Error("the password is still there")
		}
	}
}
