package conn

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"cleversocks/aclsvc"
	"cleversocks/authsvc"
	"cleversocks/bind"
	"cleversocks/conn/cause"
	"cleversocks/conn/netaddr"
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
		upstream.Rule{Ports: []netaddr.PortRange{{First: 25, Last: 25}}, Upstream: "reject"},
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
				request: wire.Request{Command: tt.command}, hop: &hop{name: routes.RouteDatagrams(upstream.Query{User: tt.user}).Upstream()},
			}
			addr := tt.dest.IP
			if tt.dest.IsName() {
				addr = elsewhere
			}
			if d := g.handler.judge.decideNow(s)(tt.dest, addr); d.Allow != tt.allow {
				t.Errorf("decided %+v", d)
			}
			if tt.dest.IsName() && !tt.allow {
				_, err := g.handler.judge.resolveNow(s)(t.Context(), tt.dest)
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
	policy.UDP, policy.Bind = udprelay.New(udprelay.RelayOptions{}), bind.New(bind.ServerOptions{})
	policy.AssociateVia = AssociateVia(policy.Routes)
	g.SetPolicy(&policy)
	for _, command := range []byte{1, 2, 3} {
		got := talkOn(t, g, []byte{5, 1, 0, 5, command, 0, 1, 127, 0, 0, 1, 0, 80})
		if wire.ReplyCode(got[3]) != wire.ReplyNotAllowed {
			t.Errorf("command %d: % x", command, got)
		}
	}
}

// The reply to a command that failed on the way said what went wrong less
// exactly than a CONNECT's does: a BIND for a name that the rules deny was
// told that there is no such host, and recorded as a failed dial.
func TestCommandsRepliesAreExact(t *testing.T) {
	acl, err := aclsvc.Compile(aclsvc.Options{DefaultAllow: true, Rules: []aclsvc.Rule{{Action: "deny", To: []string{"a.example"}}}})
	if err != nil {
		t.Fatal(err)
	}
	g, m := newTestGroup(t, true)
	records := NewAccessLog(slog.New(slog.DiscardHandler), m)
	g.access = records
	policy := *g.Policy()
	policy.ACL = acl
	policy.UDP, policy.Bind = udprelay.New(udprelay.RelayOptions{}), bind.New(bind.ServerOptions{})
	policy.AssociateVia = func(upstream.Query, upstream.Origin) func(context.Context) (udprelay.Upstream, error) {
		return func(context.Context) (udprelay.Upstream, error) {
			return udprelay.Upstream{}, &upstream.Error{Code: wire.ReplyTTLExpired, Err: context.DeadlineExceeded}
		}
	}
	g.SetPolicy(&policy)
	for _, tt := range []struct {
		command byte
		code    wire.ReplyCode
		cause   string
	}{{2, wire.ReplyNotAllowed, cause.Denied}, {3, wire.ReplyTTLExpired, cause.Error}} {
		got := talkOn(t, g, append([]byte{5, 1, 0, 5, tt.command, 0, 3, 9}, "a.example\x00\x50"...))
		if wire.ReplyCode(got[3]) != tt.code {
			t.Errorf("command %d: % x", tt.command, got)
		}
		if r := await(t, records); r.Cause != tt.cause || r.Reply != tt.code {
			t.Errorf("command %d: recorded %+v", tt.command, r)
		}
	}
}

// talkOn sends something and reads the first bytes of the answer, which are as
// many as those of a SOCKS5 method and reply.
func talkOn(t *testing.T, g *Group, sent []byte) []byte {
	t.Helper()
	client, server := pair(t, listen(t))
	defer client.Close()
	if reason := g.Admit(server, "test"); reason != "" {
		t.Fatal(reason)
	}
	if _, err := client.Write(sent); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 12)
	if _, err := io.ReadFull(client, got); err != nil {
		t.Fatal(err)
	}
	return got
}
