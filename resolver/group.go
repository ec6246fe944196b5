package resolver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"cleversocks/conn/task"
	"cleversocks/metrics"
)

// group asks several servers, the next one when the one before failed or
// takes long. A slow answer is still good: no query is given up before another
// one was answered or time is over. The first address wins; that a name does not
// exist counts only once no server in front of the one that says so may still
// know better, as with libc, which does not go on before the first one failed.
type group struct {
	servers []*server
	rounds  int           // how often each server is asked
	stagger time.Duration // from one query to the next
	rotate  bool
	asked   atomic.Uint32 // questions so far, for rotate
	lookups metrics.CounterVec2
	panics  *task.Reporter
}

// said is what one query to one server brought.
type said struct {
	server *server
	answer answer
	err    error
}

// ask puts a question to the group. The context bounds it.
func (g *group) ask(ctx context.Context, q question) (answer, error) {
	asking := g.asking()
	scope, ctx := task.New(ctx, g.panics, "dns query")
	defer func() { _ = scope.Wait() }() // each query has told how it ended
	defer scope.Cancel(context.Canceled)
	heard := make(chan said)
	timer := time.NewTimer(0) // the first query goes out at once
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			s := asking.next()
			if s == nil {
				continue
			}
			scope.Go(func() error { g.query(ctx, s, q, heard); return nil })
			timer.Reset(g.stagger)
		case h := <-heard:
			asking.take(h)
			if a, decided := asking.decided(); decided {
				return a, nil
			}
			if h.err != nil {
				timer.Reset(0)
			}
		case <-ctx.Done():
			return asking.ended(ctx)
		}
		if asking.isOver() {
			return answer{}, fmt.Errorf("%w: %w", ErrServers, asking.failure)
		}
	}
}

// query asks one server and reports, unless nobody listens any more. A panic
// fails it alone.
func (g *group) query(ctx context.Context, s *server, q question, heard chan<- said) {
	h := said{server: s}
	h.err = g.panics.Contain(ctx, "dns query", func() (err error) {
		h.answer, err = s.ask(ctx, q, g.lookups)
		return err
	})
	select {
	case heard <- h:
	case <-ctx.Done():
	}
}

// asking is where one question to a group is: an actor's state, owned by ask.
type asking struct {
	rank    []*server // whose word counts more comes first
	order   []*server // still to be asked
	awaited []*server // asked, and not heard of
	failed  map[*server]bool
	failure error   // of the server that was asked first
	no      *answer // that the name does not exist, or has no address
	noFrom  int     // the rank of who said so
	yes     *answer
}

// asking plans a question.
func (g *group) asking() *asking {
	var offset uint32
	if g.rotate {
		offset = g.asked.Add(1) - 1
	}
	a := &asking{rank: g.servers, order: plan(g.servers, g.rounds, offset), failed: make(map[*server]bool)}
	if g.rotate {
		a.rank = a.order[:len(g.servers)]
	}
	return a
}

// next is the server to ask now; nil: none is left. One that has failed would
// not say otherwise, and nothing more is asked once an answer is at hand.
func (a *asking) next() *server {
	if a.no != nil {
		return nil
	}
	for len(a.order) > 0 {
		s := a.order[0]
		a.order = a.order[1:]
		if !a.failed[s] {
			a.awaited = append(a.awaited, s)
			return s
		}
	}
	return nil
}

// take notes what a query brought.
func (a *asking) take(h said) {
	at := slices.Index(a.awaited, h.server)
	if at >= 0 {
		for _, s := range a.awaited[:at] {
			if h.err == nil && s != h.server {
				s.unanswered() // another was faster, although it was asked later
			}
		}
		a.awaited = slices.Delete(a.awaited, at, at+1)
	}
	switch {
	case h.err != nil:
		a.failed[h.server] = true
		if a.failure == nil {
			a.failure = fmt.Errorf("%s: %w", h.server.id, h.err)
		}
	case len(h.answer.addrs) > 0:
		a.yes = &h.answer
	default:
		if rank := slices.Index(a.rank, h.server); a.no == nil || rank < a.noFrom {
			a.no, a.noFrom = &h.answer, rank
		}
	}
}

// decided is the answer, if there is one that no server still to be heard could
// overrule.
func (a *asking) decided() (answer, bool) {
	switch {
	case a.yes != nil:
		return *a.yes, true
	case a.no == nil:
		return answer{}, false
	}
	for _, s := range a.rank[:a.noFrom] {
		if slices.Contains(a.awaited, s) {
			return answer{}, false
		}
	}
	return a.denial(), true
}

// denial is that a name does not exist, weak when a server in front of the one
// that said so has failed, or was not asked because it is dead.
func (a *asking) denial() answer {
	no := *a.no
	for _, s := range a.rank[:a.noFrom] {
		no.weak = no.weak || a.failed[s] || slices.Contains(a.awaited, s) || !s.isUp()
	}
	return no
}

// isOver reports that every server has failed.
func (a *asking) isOver() bool {
	return len(a.awaited) == 0 && !slices.ContainsFunc(a.order, func(s *server) bool { return !a.failed[s] })
}

// ended is the outcome of a question whose time is over.
func (a *asking) ended(ctx context.Context) (answer, error) {
	switch {
	case !errors.Is(ctx.Err(), context.DeadlineExceeded):
		return answer{}, context.Cause(ctx)
	case a.no != nil:
		return a.denial(), nil
	case len(a.awaited) > 0 || a.failure == nil:
		return answer{}, fmt.Errorf("%w: %w", ErrTimeout, context.DeadlineExceeded)
	}
	return answer{}, fmt.Errorf("%w: %w", ErrServers, a.failure)
}
