package conn

import (
	"io"
	"runtime"
	"testing"
	"time"
	"weak"

	"cleversocks/udprelay"
)

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
	before := weak.Make(g.Policy())
	next := *g.Policy()
	next.Generation++
	g.SetPolicy(&next)
	for end := time.Now().Add(patience); before.Value() != nil; runtime.GC() {
		if time.Now().After(end) {
			t.Fatal("the generation of before is still there")
		}
	}
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
	before := weak.Make(g.Policy())
	next := *g.Policy()
	next.Generation++
	g.SetPolicy(&next)
	for end := time.Now().Add(patience); before.Value() != nil; runtime.GC() {
		if time.Now().After(end) {
			t.Fatal("the generation of before is still there")
		}
	}
	if n := g.Active(); n != 1 {
		t.Errorf("%d associations", n)
	}
}
