package conn

import (
	"io"
	"runtime"
	"testing"
	"time"
	"weak"
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
