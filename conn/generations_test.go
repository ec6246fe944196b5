package conn

import (
	"io"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"cleversocks/authsvc"
	"cleversocks/conn/wire"
	"cleversocks/udprelay"
)

// reload sets the next generation, and waits for the end of the one before.
func reload(t *testing.T, g *Group) {
	t.Helper()
	before := weak.Make(g.Policy())
	next := *g.Policy()
	next.Generation++
	g.SetPolicy(&next)
	for end := time.Now().Add(patience); before.Value() != nil; runtime.GC() {
		if time.Now().After(end) {
			t.Fatal("the generation of before is still there")
		}
	}
}

// A tunnel kept the snapshot that it began with, all of its rules, and so did each
// tunnel of each generation: a daemon whose long lists are reloaded once an hour had
// hundreds of them in memory after some days.
func TestTunnelsKeepNoGeneration(t *testing.T) {
	g, _ := newTestGroup(t, true)
	client, server := pair(t, listen(t))
	defer client.Close()
	if reason := g.Admit(server, "test"); reason != "" {
		t.Fatal(reason)
	}
	to := sinkServer(t)
	if _, err := io.WriteString(client, sessions(to)["socks4"][0]); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(client, make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	reload(t, g)
	if n := g.Active(); n != 1 {
		t.Errorf("%d tunnels", n)
	}
	if _, err := io.WriteString(client, "still there"); err != nil {
		t.Fatal(err)
	}
	_ = client.CloseWrite()
	if got, err := io.ReadAll(client); string(got) != "got:still there" {
		t.Errorf("%q: %v", got, err)
	}
}

// Nor does an association, which asks the rules of the time about each datagram.
func TestAssociationsKeepNoGeneration(t *testing.T) {
	g, _ := newTestGroup(t, true)
	policy := *g.Policy()
	policy.UDP = udprelay.New(udprelay.RelayOptions{})
	g.SetPolicy(&policy)
	client, server := pair(t, listen(t))
	defer client.Close()
	if reason := g.Admit(server, "test"); reason != "" {
		t.Fatal(reason)
	}
	if _, err := io.WriteString(client, "\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(client, make([]byte, 12)); err != nil {
		t.Fatal(err)
	}
	reload(t, g)
	if n := g.Active(); n != 1 {
		t.Errorf("%d associations", n)
	}
}

// askedHolds counts how often it is asked whether an identity still holds.
type askedHolds struct {
	authsvc.Authenticator
	asked atomic.Int32
}

func (a *askedHolds) Holds(id authsvc.Identity, _ netip.Addr) (authsvc.Identity, error) {
	a.asked.Add(1)
	return id, nil
}

func (*askedHolds) Method() authsvc.Method { return authsvc.MethodPassword }

// An association keeps a part of its generation alone, and yet its user is asked for anew
// only behind a reload: once it was so for the destination of each datagram, which may
// take a hash.
func TestAssociationAsksForItsUserBehindAReload(t *testing.T) {
	g, _ := newTestGroup(t, true)
	users := new(askedHolds)
	policy := newPolicy(t, authsvc.AdmissionOptions{Authenticators: []authsvc.Authenticator{users}}, nil)
	g.SetPolicy(policy)
	s := &session{
		ctx: t.Context(), policy: policy.lasting("test"), identity: authsvc.Identity{User: "alice", Method: authsvc.MethodPassword},
		request: wire.Request{Command: wire.CommandUDPAssociate},
	}
	decide, dest := g.handler.judge.decideNow(s), wire.Addr{IP: netip.MustParseAddr("192.0.2.1"), Port: 53}
	for range 3 {
		decide(dest, dest.IP)
	}
	if n := users.asked.Load(); n != 0 {
		t.Errorf("asked %d times", n)
	}
	next := *policy
	next.Generation++
	g.SetPolicy(&next)
	if decide(dest, dest.IP); users.asked.Load() != 1 {
		t.Errorf("asked %d times behind a reload", users.asked.Load())
	}
}
