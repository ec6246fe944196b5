package conn

import (
	"context"
	"io"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"cleversocks/conn/dial"
	"cleversocks/resolver"
)

// exhaust leaves the process without a descriptor until the test, or free, ends it.
func exhaust(t *testing.T) (free func()) {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	next, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	// What is open stays so; below the lowest that is free there may be gaps.
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(next.Fd()) + 1, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	files := []*os.File{next}
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		files = append(files, f)
	}
	done := false
	free = func() {
		if done {
			return
		}
		done = true
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before)
		for _, f := range files {
			f.Close()
		}
	}
	t.Cleanup(free)
	return free
}

// TestMoveWithoutDescriptors: a socket has two descriptors while a conn is made of
// it. With none left, a client whose request had to be looked up was closed without a
// word, and without its request in the metrics; from its first byte on in a task, it
// was told.
func TestMoveWithoutDescriptors(t *testing.T) {
	for _, asked := range []string{"\x03\x07a.local", "\x01\x7f\x00\x00\x01"} { // an address needs no move
		askWithoutDescriptors(t, "\x05\x01\x00"+asked+"\x00\x50")
	}
}

func askWithoutDescriptors(t *testing.T, request string) {
	t.Helper()
	g, m := newTestGroup(t, true)
	policy := *g.Policy()
	policy.Dialer = dial.New(dial.Options{
		ConnectTimeout: patience, Metrics: m.Dial, Family: dial.FamilyIPv4,
		Lookup: func(context.Context, string, resolver.Family) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		},
	})
	g.SetPolicy(&policy)
	client, server := pair(t, listen(t))
	defer client.Close()
	if reason := g.Admit(server, "test"); reason != "" {
		t.Fatal(reason)
	}
	say := func(sent string, want string) {
		t.Helper()
		if _, err := io.WriteString(client, sent); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(client, got); err != nil || string(got) != want {
			t.Fatalf("%q, %v; want %q", got, err, want)
		}
	}
	say("\x05\x01\x00", "\x05\x00")
	free := exhaust(t)
	say(request, "\x05\x01\x00\x01")
	free()
	client.Close()
	awaitIdle(t, g)
	if n := m.Conn.Requests.Of("connect", "general_failure").Get(); n != 1 {
		t.Errorf("%d requests failed, want 1", n)
	}
}
