package supervisor

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cleversocks/metrics"
)

// scripted is a service that says when it is served, and ends as it is told.
type scripted struct {
	name   string
	served chan struct{} // one for each time
	panics atomic.Int32  // times that are left
}

func (s *scripted) String() string { return s.name }

func (s *scripted) Serve(ctx context.Context) error {
	s.served <- struct{}{}
	if s.panics.Add(-1) >= 0 {
		panic("a defect")
	}
	<-ctx.Done()
	return ctx.Err()
}

// TestPanicInEachBranch: a service that panics is served anew, whichever subtree
// it is in; the others do not notice, and counter and log say which one it was.
func TestPanicInEachBranch(t *testing.T) {
	for name, of := range map[string]func(*tree) branch{
		"control": func(t *tree) branch { return t.control }, "ingress": func(t *tree) branch { return t.ingress },
		"flows": func(t *tree) branch { return t.flows }, "core": func(t *tree) branch { return t.core },
		"admin": func(t *tree) branch { return t.admin },
	} {
		t.Run(name, func(t *testing.T) {
			var text bytes.Buffer // the tree has ended when it is read
			m := metrics.New()
			tree := newTree(slog.New(slog.NewTextHandler(&text, nil)), m)
			faulty := &scripted{name: "faulty", served: make(chan struct{}, 10)}
			faulty.panics.Store(3)
			others := []*scripted{
				{name: "beside", served: make(chan struct{}, 10)}, {name: "elsewhere", served: make(chan struct{}, 10)},
			}
			tree.add(of(tree), others[0])
			tree.add(tree.core, others[1])
			ctx, cancel := context.WithCancel(t.Context())
			ended := tree.root.ServeBackground(ctx)
			for _, o := range others {
				awaitServed(t, o)
			}
			tree.add(of(tree), faulty)
			for range 4 {
				awaitServed(t, faulty)
			}
			cancel()
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				t.Fatal("the tree does not end")
			}
			for _, o := range others {
				if len(o.served) > 0 {
					t.Errorf("%s was served anew", o.name)
				}
			}
			if n := m.Conn.Panics.Of("service").Get(); n != 3 {
				t.Errorf("counted %d panics", n)
			}
			if n := m.Daemon.Restarts("faulty").Get(); n < 3 {
				t.Errorf("counted %d restarts", n)
			}
			if log := text.String(); !strings.Contains(log, "faulty") || !strings.Contains(log, "a defect") {
				t.Errorf("the log does not say what panicked:\n%s", log)
			}
		})
	}
}

func awaitServed(t *testing.T, s *scripted) {
	t.Helper()
	select {
	case <-s.served:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s is not served", s.name)
	}
}
