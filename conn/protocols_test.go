package conn

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"cleversocks/aclsvc"
	"cleversocks/authsvc"
	"cleversocks/conn/upstream"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/socks5"
	"cleversocks/udprelay"
)

// talk serves one connection of a client that sends all at once, and returns
// what it reads until the end. One with nothing behind its request is taken for gone,
// if the dial lasts.
func talk(t *testing.T, g *Group, sent []byte) []byte {
	t.Helper()
	client, server := pair(t, listen(t))
	defer client.Close()
	if reason := g.Admit(server, "test"); reason != "" {
		t.Fatal(reason)
	}
	return speakOver(t, client, string(sent))
}

// speakOver sends all at once, and returns what it reads until the end.
func speakOver(t *testing.T, client *net.TCPConn, sent string) []byte {
	t.Helper()
	if _, err := io.WriteString(client, sent); err != nil {
		t.Fatal(err)
	}
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(client)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// A SOCKS4 user id lets in whom nothing else does only by the setting, and
// only users who have no password.
func TestSOCKS4UserID(t *testing.T) {
	for name, tt := range map[string]struct {
		required, setting bool
		id                string
		granted           bool
		failed            uint64
	}{
		"open":                         {false, false, "", true, 0},
		"open, any id":                 {false, false, "whoever", true, 0},
		"open, an unknown id":          {false, true, "whoever", true, 0},
		"required":                     {true, false, "", false, 0},
		"required, the setting off":    {true, false, "bob", false, 0},
		"required, bob has none":       {true, true, "bob", true, 0},
		"required, no id":              {true, true, "", false, 0},
		"required, ann has a password": {true, true, "ann", false, 1},
		"required, an unknown id":      {true, true, "whoever", false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			g, m := newTestGroup(t, true)
			users, err := authsvc.NewUsers(authsvc.UsersOptions{
				Users: []authsvc.UserEntry{{Account: authsvc.Account{Name: "bob"}}},
				User:  "ann", Password: "s3cret", Metrics: &m.Auth,
			})
			if err != nil {
				t.Fatal(err)
			}
			policy := *g.Policy()
			ways := []authsvc.Authenticator{users}
			if tt.setting {
				ways = append(ways, authsvc.NewUserIDs(users))
			}
			policy.Auth = authsvc.NewAdmission(authsvc.AdmissionOptions{Required: tt.required, Authenticators: ways, Outcomes: m.Conn.Auth})
			g.SetPolicy(&policy)
			to := sinkServer(t)
			request := append([]byte{4, 1, byte(to.Port() >> 8), byte(to.Port()), 127, 0, 0, 1}, tt.id...)
			got := talk(t, g, append(request, 0, 'x'))
			if len(got) < 8 || (got[1] == 90) != tt.granted || got[1] != 90 && got[1] != 91 {
				t.Errorf("answer % x", got)
			}
			if n := m.Conn.Auth.Of("socks4", "failed").Get(); n != tt.failed {
				t.Errorf("%d failed authentications, want %d", n, tt.failed)
			}
		})
	}
}

// What the rules deny wherever it would go is refused before a port is
// opened, and so is what is not served at all.
func TestCommandsRefusedAtOnce(t *testing.T) {
	g, _ := newTestGroup(t, true)
	refused := func(command byte) wire.ReplyCode {
		got := talk(t, g, []byte{5, 1, 0, 5, command, 0, 1, 127, 0, 0, 1, 0, 80})
		if len(got) != 12 {
			t.Fatalf("answer % x", got)
		}
		return wire.ReplyCode(got[3])
	}
	for _, command := range []byte{2, 3} {
		if code := refused(command); code != wire.ReplyCommandNotSupported {
			t.Errorf("command %d: %s", command, code)
		}
	}
	acl, err := aclsvc.Compile(aclsvc.Options{DefaultAllow: true, Rules: []aclsvc.Rule{{Action: "deny", Commands: []string{"udp", "bind"}}}})
	if err != nil {
		t.Fatal(err)
	}
	policy := *g.Policy()
	policy.ACL, policy.UDP = acl, udprelay.New(udprelay.RelayOptions{})
	g.SetPolicy(&policy)
	if code := refused(3); code != wire.ReplyNotAllowed {
		t.Errorf("a rule that denies all of UDP: %s", code)
	}
}

// An association goes where the policy says that its client's go.
func TestAssociateVia(t *testing.T) {
	g, _ := newTestGroup(t, true)
	relay, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	ours, theirs := pair(t, listen(t))
	defer theirs.Close()
	asked := make(chan netip.Addr, 1)
	policy := *g.Policy()
	policy.UDP = udprelay.New(udprelay.RelayOptions{})
	policy.AssociateVia = func(q upstream.Query, _ upstream.Origin) func(context.Context) (udprelay.Upstream, error) {
		asked <- q.Source
		return func(context.Context) (udprelay.Upstream, error) {
			return udprelay.Upstream{Relay: relay.LocalAddr().(*net.UDPAddr).AddrPort(), Control: ours}, nil
		}
	}
	g.SetPolicy(&policy)
	client, server := pair(t, listen(t))
	defer client.Close()
	if reason := g.Admit(server, "test"); reason != "" {
		t.Fatal(reason)
	}
	if _, err := client.Write([]byte{5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, 12)
	if _, err := io.ReadFull(client, reply); err != nil || reply[3] != 0 || reply[2] != socks5.Version {
		t.Fatalf("reply % x, %v", reply, err)
	}
	if got := <-asked; got.String() != "127.0.0.1" {
		t.Errorf("asked for %s", got)
	}
	socket, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4([4]byte(reply[6:10])), uint16(reply[10])<<8|uint16(reply[11]))))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	datagram := append([]byte{0, 0, 0, 3, 7}, "a.names\x00\x35hello"...)
	if _, err := socket.Write(datagram); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 100)
	n, err := relay.Read(got)
	if err != nil || !bytes.Equal(got[:n], datagram) {
		t.Errorf("the upstream reads % x, %v", got[:n], err)
	}
	theirs.Close() // the upstream's end is the association's
	if n, err := client.Read(got); err == nil {
		t.Errorf("the client reads %d bytes, want the end", n)
	}
}

// A forwarding rule that rejects a user's datagrams was answered 01 and
// recorded as an error, not as the refusal that it is.
func TestAssociateRejected(t *testing.T) {
	g, m := newTestGroup(t, true)
	routes, err := upstream.Compile(upstream.Options{
		Forward: []upstream.Rule{{To: []string{"*"}, Upstream: "reject"}}, Metrics: &m.Upstream, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	policy := *g.Policy()
	policy.UDP, policy.Routes, policy.AssociateVia = udprelay.New(udprelay.RelayOptions{}), routes, AssociateVia(routes)
	g.SetPolicy(&policy)
	got := talk(t, g, []byte{5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0})
	if len(got) != 12 || got[3] != byte(wire.ReplyNotAllowed) {
		t.Errorf("answer % x", got)
	}
}

// A listener that a reload has closed speaks nothing, one without settings all.
func TestListenerPolicy(t *testing.T) {
	var p Policy
	for _, protocol := range []wire.Protocol{wire.SOCKS5, wire.SOCKS4, wire.HTTP} {
		if !p.listener("any").Protocols.Has(protocol) {
			t.Errorf("%s is not spoken by default", protocol)
		}
	}
	p.Listeners = map[string]Listener{"a": {Protocols: Protocols{wire.HTTP}}}
	if has := p.listener("a").Protocols; !has.Has(wire.HTTP) || has.Has(wire.SOCKS5) {
		t.Errorf("protocols %s", has)
	}
	if has := p.listener("b").Protocols; len(has) != 0 {
		t.Errorf("a listener that is not there: %s", has)
	}
}
