package conn

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"cleversocks/aclsvc"
	"cleversocks/authsvc"
	"cleversocks/conn/netaddr"
	"cleversocks/conn/relay"
	"cleversocks/conn/upstream"
	"cleversocks/conn/wire"
	"cleversocks/metrics"
)

// newPolicy has the users and rules of a new configuration.
func newPolicy(t *testing.T, auth authsvc.AdmissionOptions, users []authsvc.UserEntry, rules ...aclsvc.Rule) *Policy {
	t.Helper()
	acl, err := aclsvc.Compile(aclsvc.Options{DefaultAllow: true, Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	if users != nil {
		list, err := authsvc.NewUsers(authsvc.UsersOptions{
			Users: users, AllowPlain: true, Metrics: &metrics.New().Auth, Queue: authsvc.NewQueue(authsvc.QueueOptions{}),
		})
		if err != nil {
			t.Fatal(err)
		}
		auth.Authenticators = []authsvc.Authenticator{list}
	}
	return &Policy{Auth: authsvc.NewAdmission(auth), ACL: acl, Revoke: true}
}

func account(name string, groups ...string) authsvc.UserEntry {
	return authsvc.UserEntry{Account: authsvc.Account{Name: name, Groups: groups}, Password: "x"}
}

func TestRefuses(t *testing.T) {
	source := netip.MustParseAddrPort("192.0.2.7:1000")
	away := account("alice")
	away.From = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	alice := authsvc.Identity{User: "alice", Method: authsvc.MethodPassword, Account: &authsvc.Account{Name: "alice"}}
	once := alice
	once.Method, once.By = authsvc.MethodOnce, authsvc.MethodPassword
	whitelist := authsvc.NewWhitelist([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")})
	table := authsvc.NewOnce(authsvc.OnceOptions{Max: 1}, authsvc.StateOptions{Metrics: &metrics.New().Auth})
	direct := session{hostIP: netip.MustParseAddrPort("203.0.113.1:443"), request: wire.Request{
		Command: wire.CommandConnect, Dest: wire.Addr{Name: "www.example.com", Port: 443},
	}}
	byAddress := aclsvc.Rule{Action: "deny", To: []string{"203.0.113.0/24"}, Where: "f:3"}
	byName := aclsvc.Rule{Action: "deny", To: []string{"*.example.com"}, Where: "f:4"}
	rejecting := newPolicy(t, authsvc.AdmissionOptions{}, []authsvc.UserEntry{account("alice")})
	rejecting.Routes = router(t, upstream.Rule{Users: []string{"alice"}, Upstream: "reject"})
	for name, tt := range map[string]struct {
		identity authsvc.Identity
		policy   *Policy
		change   func(*session)
		want     string
	}{
		"nothing changed":             {authsvc.Identity{Method: authsvc.MethodNone}, newPolicy(t, authsvc.AdmissionOptions{}, nil), nil, ""},
		"a password is asked for now": {authsvc.Identity{Method: authsvc.MethodNone}, newPolicy(t, authsvc.AdmissionOptions{Required: true}, nil), nil, string(authsvc.ReasonRequired)},
		"off the whitelist":           {authsvc.Identity{Method: authsvc.MethodWhitelist}, newPolicy(t, authsvc.AdmissionOptions{Required: true}, nil), nil, string(authsvc.ReasonRequired)},
		"still on the whitelist":      {authsvc.Identity{Method: authsvc.MethodWhitelist}, newPolicy(t, authsvc.AdmissionOptions{Required: true, Whitelist: whitelist}, nil), nil, ""},
		"user stays":                  {alice, newPolicy(t, authsvc.AdmissionOptions{Required: true}, []authsvc.UserEntry{account("alice")}), nil, ""},
		"user gone":                   {alice, newPolicy(t, authsvc.AdmissionOptions{Required: true}, []authsvc.UserEntry{account("bob")}), nil, string(authsvc.ReasonUser)},
		"all users gone":              {alice, newPolicy(t, authsvc.AdmissionOptions{Required: true}, nil), nil, string(authsvc.ReasonUser)},
		"user may not come from here": {alice, newPolicy(t, authsvc.AdmissionOptions{Required: true}, []authsvc.UserEntry{away}), nil, string(authsvc.ReasonUser)},
		"auth-once goes on":           {once, newPolicy(t, authsvc.AdmissionOptions{Required: true, Once: table}, []authsvc.UserEntry{account("alice")}), nil, ""},
		"auth-once is off":            {once, newPolicy(t, authsvc.AdmissionOptions{Required: true}, []authsvc.UserEntry{account("alice")}), nil, string(authsvc.ReasonRequired)},
		"auth-once, user gone":        {once, newPolicy(t, authsvc.AdmissionOptions{Required: true, Once: table}, []authsvc.UserEntry{account("bob")}), nil, string(authsvc.ReasonUser)},
		"address denied":              {alice, newPolicy(t, authsvc.AdmissionOptions{}, []authsvc.UserEntry{account("alice")}, byAddress), nil, "acl.rules[0]"},
		"name denied":                 {alice, newPolicy(t, authsvc.AdmissionOptions{}, []authsvc.UserEntry{account("alice")}, byName), nil, "acl.rules[0]"},
		"allowed by a new group": {
			alice, newPolicy(t, authsvc.AdmissionOptions{}, []authsvc.UserEntry{account("alice", "staff")}, aclsvc.Rule{Action: "allow", Groups: []string{"staff"}}, byName), nil, "",
		},
		"resolved by an upstream": {
			alice, newPolicy(t, authsvc.AdmissionOptions{}, []authsvc.UserEntry{account("alice")}, byAddress),
			func(s *session) { s.hostIP, s.hop = netip.AddrPort{}, &hop{name: "exit"} }, "",
		},
		"resolved by an upstream, name denied": {
			alice, newPolicy(t, authsvc.AdmissionOptions{}, []authsvc.UserEntry{account("alice")}, byName),
			func(s *session) { s.hostIP, s.hop = netip.AddrPort{}, &hop{name: "exit"} }, "acl.rules[0]",
		},
		// A rule sends www.example.com:443 to an inner host that is allowed by
		// its port. A reload judged that host with the port and the name that
		// the client had asked for, and cut the tunnel.
		"rewritten, allowed as it is": {
			alice, newPolicy(t, authsvc.AdmissionOptions{}, []authsvc.UserEntry{account("alice")},
				aclsvc.Rule{Action: "allow", To: []string{"203.0.113.1"}, Ports: []netaddr.PortRange{{First: 8443, Last: 8443}}}, byAddress),
			func(s *session) {
				s.hostIP = netip.MustParseAddrPort("203.0.113.1:8443")
				s.judged(wire.FromAddrPort(s.hostIP))
			}, "",
		},
		"rewritten to a name that is denied": {
			alice, newPolicy(t, authsvc.AdmissionOptions{}, []authsvc.UserEntry{account("alice")}, byName),
			func(s *session) {
				s.hostIP, s.request.Dest = netip.AddrPort{}, wire.Addr{Name: "public.test", Port: 443}
				s.judged(wire.Addr{Name: "inner.example.com", Port: 443})
			}, "acl.rules[0]",
		},
		"bind, its peer denied": {
			alice, newPolicy(t, authsvc.AdmissionOptions{}, []authsvc.UserEntry{account("alice")}, aclsvc.Rule{Action: "deny", To: []string{"203.0.113.1"}, Ports: []netaddr.PortRange{{First: 20, Last: 20}}}),
			func(s *session) {
				s.hostIP = netip.MustParseAddrPort("203.0.113.1:20")
				s.request = wire.Request{Command: wire.CommandBind, Dest: wire.Addr{Name: "ftp.test", Port: 21}}
				s.judged(wire.Addr{Name: "ftp.test", Port: 20})
			}, "acl.rules[0]",
		},
		"bind, its peer allowed by name": {
			alice, newPolicy(t, authsvc.AdmissionOptions{}, []authsvc.UserEntry{account("alice")}, aclsvc.Rule{Action: "allow", To: []string{"ftp.test"}}, byAddress),
			func(s *session) {
				s.hostIP = netip.MustParseAddrPort("203.0.113.1:20")
				s.request = wire.Request{Command: wire.CommandBind, Dest: wire.Addr{Name: "ftp.test", Port: 21}}
				s.judged(wire.Addr{Name: "ftp.test", Port: 20})
			}, "",
		},
		"association, whatever the client's address": {
			alice, newPolicy(t, authsvc.AdmissionOptions{}, []authsvc.UserEntry{account("alice")}, byAddress),
			func(s *session) {
				s.hostIP, s.request = netip.AddrPort{}, wire.Request{Command: wire.CommandUDPAssociate}
			}, "",
		},
		"association, command denied": {
			alice, newPolicy(t, authsvc.AdmissionOptions{}, []authsvc.UserEntry{account("alice")}, aclsvc.Rule{Action: "deny", Commands: []string{"udp"}}),
			func(s *session) {
				s.hostIP, s.request = netip.AddrPort{}, wire.Request{Command: wire.CommandUDPAssociate}
			}, "acl.rules[0]",
		},
		"association of a rejected user": {
			alice, rejecting, func(s *session) {
				s.hostIP, s.request = netip.AddrPort{}, wire.Request{Command: wire.CommandUDPAssociate}
			}, "forward[0]",
		},
		// Who asked for it counts; whom it will serve is judged when that comes.
		"bind that waits, its user gone": {
			alice, newPolicy(t, authsvc.AdmissionOptions{Required: true}, []authsvc.UserEntry{account("bob")}),
			func(s *session) { s.request.Command = wire.CommandBind; s.waiting.Store(true) }, string(authsvc.ReasonUser),
		},
		"bind that waits, its destination denied": {
			alice, newPolicy(t, authsvc.AdmissionOptions{}, []authsvc.UserEntry{account("alice")}, byName),
			func(s *session) { s.request.Command = wire.CommandBind; s.waiting.Store(true) }, "",
		},
		"rejected peer of a BIND": {
			alice, rejecting, func(s *session) { s.request = wire.Request{Command: wire.CommandBind} }, "forward[0]",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &session{client: source, identity: tt.identity, hostIP: direct.hostIP, request: direct.request}
			if tt.change != nil {
				tt.change(s)
			}
			if rule, _ := tt.policy.refuses(s); rule != tt.want {
				t.Errorf("refused by %q, want %q", rule, tt.want)
			}
		})
	}
}

// A reload that comes while a request is carried out reaches the session all
// the same: it was not among those that the reload looked at.
func TestRevokeMeetsLateSessions(t *testing.T) {
	g, _ := newTestGroup(t, true)
	s := &session{
		client: netip.MustParseAddrPort("192.0.2.7:1000"), policy: g.Policy(),
		identity: authsvc.Identity{Method: authsvc.MethodNone}, hostIP: netip.MustParseAddrPort("203.0.113.1:443"),
		request: wire.Request{Command: wire.CommandConnect},
	}
	s.ctx = s.scope.begin(t.Context())
	g.SetPolicy(newPolicy(t, authsvc.AdmissionOptions{Required: true}, nil))
	if n := g.Revoke(); n != 0 {
		t.Fatalf("%d revoked", n)
	}
	g.revocable(s)
	if err := context.Cause(s.ctx); !errors.Is(err, relay.ErrRevoked) {
		t.Errorf("%v", err)
	}
}

// An operator ends a user's connections while one of them has had its reply, and
// nobody could see yet whose it is: once in fifty times it went on.
func TestKillMeetsLateSessions(t *testing.T) {
	g, _ := newTestGroup(t, true)
	late := func(user string, started time.Time) *session {
		s := &session{
			client: netip.MustParseAddrPort("192.0.2.7:1000"), policy: g.Policy(), started: started,
			identity: authsvc.Identity{User: user, Method: authsvc.MethodNone}, hostIP: netip.MustParseAddrPort("203.0.113.1:443"),
			request: wire.Request{Command: wire.CommandConnect},
		}
		s.ctx = s.scope.begin(t.Context())
		return s
	}
	before := time.Now()
	g.Kill(t.Context(), func(r *Record) bool { return r.User == "alice" })
	alice, bob, next := late("alice", before), late("bob", before), late("alice", time.Now().Add(time.Second))
	for _, s := range []*session{alice, bob, next} {
		g.revocable(s)
	}
	if err := context.Cause(alice.ctx); !errors.Is(err, relay.ErrRevoked) {
		t.Errorf("%v", err)
	}
	if bob.ctx.Err() != nil || next.ctx.Err() != nil {
		t.Error("others end: another user, or a connection that came after it")
	}
}

// A BIND that waited for its peer was no session to anybody: it was listed without
// its user, "kill" did not meet it, and its port stayed open to the world after the
// user's time was over, for as long as bind.accept_timeout.
func TestWaitingBindIsASession(t *testing.T) {
	for name, end := range map[string]func(*Group) int{
		"killed": func(g *Group) int {
			return g.Kill(t.Context(), func(r *Record) bool { return r.User == "alice" && r.Command == wire.CommandBind && !r.Handshake })
		},
		"revoked": func(g *Group) int {
			g.SetPolicy(newPolicy(t, authsvc.AdmissionOptions{Required: true}, nil))
			return g.Revoke()
		},
	} {
		t.Run(name, func(t *testing.T) {
			g, _ := newTestGroup(t, true)
			s := &session{
				policy: g.Policy(), identity: authsvc.Identity{User: "alice", Method: authsvc.MethodPassword},
				request: wire.Request{Command: wire.CommandBind},
			}
			s.ctx = s.scope.begin(t.Context())
			g.sessions[s] = struct{}{}
			defer delete(g.sessions, s) // the group waits for its sessions
			g.waits(s)
			if n := end(g); n != 1 || !errors.Is(context.Cause(s.ctx), relay.ErrRevoked) {
				t.Errorf("%d ended, this one by %v", n, context.Cause(s.ctx))
			}
		})
	}
}

// Between its wait and its relay a BIND was nobody's session again: "kill" did not meet
// it, and it went on.
func TestGrantedBindIsASession(t *testing.T) {
	g, _ := newTestGroup(t, true)
	s := &session{policy: g.Policy(), identity: authsvc.Identity{User: "alice"}, request: wire.Request{Command: wire.CommandBind}}
	s.ctx = s.scope.begin(t.Context())
	g.waits(s)
	g.revocable(s)
	if r := s.glance(); r.Handshake || r.User != "alice" {
		t.Errorf("listed as %+v", r)
	}
}
