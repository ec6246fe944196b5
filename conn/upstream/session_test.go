package upstream

import (
	"context"
	"fmt"
	"testing"
)

// A session goes through the same member each time. When that is drained or
// down, its sessions go elsewhere, and no others; when it is back, so are they.
func TestSessionKeepsItsMember(t *testing.T) {
	f := newFarm(t, LeastConnections, "a", "b", "c", "d")
	where := func(session string) string {
		_, info, fail := f.through(t.Context(), asker{session: session}, func(context.Context, *prepared, Hop) *Error { return nil })
		if fail != nil {
			t.Fatal(fail)
		}
		return info.Member
	}
	before := make(map[string]string)
	members := make(map[string]bool)
	for i := range 64 {
		session := fmt.Sprint("alice\x00", i)
		before[session] = where(session)
		members[before[session]] = true
		if again := where(session); again != before[session] {
			t.Fatalf("%s went through %s, then %s", session, before[session], again)
		}
	}
	if len(members) != 4 {
		t.Errorf("64 sessions take %d members of 4", len(members))
	}
	gone := f.members[1].label
	f.Drain(gone, true)
	for session, was := range before {
		if now := where(session); now == gone || was != gone && now != was {
			t.Errorf("%s was at %s, and is at %s; %s is drained", session, was, now, gone)
		}
	}
	f.Drain(gone, false)
	for session, was := range before {
		if now := where(session); now != was {
			t.Errorf("%s did not come back to %s", session, was)
		}
	}
}
