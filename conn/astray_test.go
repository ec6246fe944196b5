package conn

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"cleversocks/authsvc"
	"cleversocks/bind"
	"cleversocks/conn/upstream"
	"cleversocks/conn/wire"
	"cleversocks/metrics"
	"cleversocks/udprelay"
)

// router compiles forwarding rules, with one upstream "exit" that nobody
// reaches.
func router(t *testing.T, rules ...upstream.Rule) *upstream.Router {
	t.Helper()
	m := metrics.New()
	r, err := upstream.Compile(upstream.Options{
		Upstreams: []upstream.Upstream{{Name: "exit", Via: []string{"socks5://192.0.2.1"}}},
		Metrics:   &m.Upstream, Logger: slog.New(slog.DiscardHandler), Forward: rules,
		Dial: func(context.Context, wire.Addr) (*net.TCPConn, error) { return nil, errors.New("unused") },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Forwarding rules that name targets were passed over for datagrams and for
// peers of a BIND: what they reject went out all the same, and so did, straight
// and with a question to the name server, what they keep for an upstream.
func TestNothingGetsAroundForwardingRules(t *testing.T) {
	routes := router(t,
		upstream.Rule{To: []string{"*.onion"}, Upstream: "exit"},
		upstream.Rule{To: []string{"192.0.2.0/24"}, Upstream: "reject"},
		upstream.Rule{Ports: []upstream.Ports{{First: 25, Last: 25}}, Upstream: "reject"},
		upstream.Rule{Users: []string{"alice"}, Upstream: "exit"},
	)
	literal, elsewhere := netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("203.0.113.1")
	for name, tt := range map[string]struct {
		command wire.Command
		user    string
		dest    wire.Addr
		allow   bool
	}{
		"datagram to a rejected address":       {wire.CommandUDPAssociate, "", wire.Addr{IP: literal, Port: 53}, false},
		"datagram to a rejected port":          {wire.CommandUDPAssociate, "", wire.Addr{IP: elsewhere, Port: 25}, false},
		"datagram for an upstream":             {wire.CommandUDPAssociate, "", wire.Addr{Name: "a.onion", Port: 53}, false},
		"datagram elsewhere":                   {wire.CommandUDPAssociate, "", wire.Addr{IP: elsewhere, Port: 53}, true},
		"rejected, through the upstream":       {wire.CommandUDPAssociate, "alice", wire.Addr{IP: literal, Port: 53}, false},
		"through the upstream, by either rule": {wire.CommandUDPAssociate, "alice", wire.Addr{Name: "a.onion", Port: 53}, true},
		"a rejected peer":                      {wire.CommandBind, "", wire.Addr{IP: literal, Port: 20}, false},
		"a peer elsewhere":                     {wire.CommandBind, "alice", wire.Addr{IP: elsewhere, Port: 20}, true},
	} {
		t.Run(name, func(t *testing.T) {
			g, _ := newTestGroup(t, true)
			policy := *g.Policy()
			policy.Routes = routes
			g.SetPolicy(&policy)
			s := &session{
				ctx: t.Context(), policy: &policy, identity: authsvc.Identity{User: tt.user, Method: authsvc.MethodNone},
				request: wire.Request{Command: tt.command}, upstream: routes.RouteDatagrams(tt.user).Upstream(),
			}
			addr := tt.dest.IP
			if tt.dest.IsName() {
				addr = elsewhere
			}
			if d := g.handler.decideNow(s)(tt.dest, addr); d.Allow != tt.allow {
				t.Errorf("decided %+v", d)
			}
			if tt.dest.IsName() && !tt.allow {
				_, err := g.handler.resolveNow(s)(t.Context(), tt.dest)
				if _, denied := errors.AsType[*deniedError](err); !denied {
					t.Errorf("looked up: %v", err)
				}
			}
		})
	}
}

// A user whose every request is rejected could open ports by BIND all the
// same, and was told of a general failure at an association.
func TestRejectedUserHasNoCommands(t *testing.T) {
	g, _ := newTestGroup(t, true)
	policy := *g.Policy()
	policy.Routes = router(t, upstream.Rule{Upstream: "reject"})
	policy.UDP, policy.Bind = udprelay.New(udprelay.Options{}), bind.New(bind.Options{})
	policy.AssociateVia = AssociateVia(policy.Routes)
	g.SetPolicy(&policy)
	for _, command := range []byte{1, 2, 3} {
		client, server := pair(t, listen(t))
		defer client.Close()
		if reason := g.Admit(server, "test"); reason != "" {
			t.Fatal(reason)
		}
		if _, err := client.Write([]byte{5, 1, 0, 5, command, 0, 1, 127, 0, 0, 1, 0, 80}); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 12)
		if _, err := io.ReadFull(client, got); err != nil || wire.ReplyCode(got[3]) != wire.ReplyNotAllowed {
			t.Errorf("command %d: % x, %v", command, got, err)
		}
	}
}
