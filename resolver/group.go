package resolver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"cleversocks/metrics"
)

// group asks several servers, the next one when the one before failed or
// takes long, and takes the first answer. A slow answer is still good: no
// query is given up before another one was answered or time is over.
type group struct {
	servers []*server
	rounds  int           // how often each server is asked
	stagger time.Duration // from one query to the next
	rotate  bool
	turn    atomic.Uint32
	lookups metrics.CounterVec2
}

// said is what one query to one server brought.
type said struct {
	server *server
	answer answer
	err    error
}

// ask puts a question to the group. The context bounds it.
func (g *group) ask(ctx context.Context, q question) (answer, error) {
	var offset uint32
	if g.rotate {
		offset = g.turn.Add(1) - 1
	}
	order := plan(g.servers, g.rounds, offset)
	ctx, cancel := context.WithCancel(ctx)
	var queries sync.WaitGroup
	defer queries.Wait()
	defer cancel()
	heard := make(chan said)
	timer := time.NewTimer(0) // the first query goes out at once
	defer timer.Stop()
	var (
		asked   []*server // whose answer is awaited
		refused = make(map[*server]bool)
		lastErr error
	)
	for len(order) > 0 || len(asked) > 0 {
		select {
		case <-timer.C:
			for len(order) > 0 && refused[order[0]] { // it will not say otherwise
				order = order[1:]
			}
			if len(order) == 0 {
				continue
			}
			s := order[0]
			order = order[1:]
			asked = append(asked, s)
			queries.Go(func() { g.query(ctx, s, q, heard) })
			timer.Reset(g.stagger)
		case h := <-heard:
			overtaken, rest := split(asked, h.server)
			if h.err == nil {
				for _, s := range overtaken {
					s.missed()
				}
				return h.answer, nil
			}
			asked = rest
			refused[h.server] = true
			lastErr = worseOf(lastErr, fmt.Errorf("%s: %w", h.server.id, h.err))
			timer.Reset(0)
		case <-ctx.Done():
			return answer{}, g.ended(ctx, asked, lastErr)
		}
	}
	return answer{}, fmt.Errorf("%w: %w", ErrServers, lastErr)
}

// query asks one server and reports, unless nobody listens any more.
func (g *group) query(ctx context.Context, s *server, q question, heard chan<- said) {
	a, err := s.ask(ctx, q, g.lookups)
	select {
	case heard <- said{server: s, answer: a, err: err}:
	case <-ctx.Done():
	}
}

// split takes one query of a server out of those awaited: overtaken are other
// servers that were asked before it, rest is what is still awaited.
func split(asked []*server, of *server) (overtaken, rest []*server) {
	before := true
	for _, s := range asked {
		switch {
		case s == of && before:
			before = false
		case s == of:
			rest = append(rest, s)
		case before:
			overtaken = append(overtaken, s)
			rest = append(rest, s)
		default:
			rest = append(rest, s)
		}
	}
	return overtaken, rest
}

// ended is the error of a question whose context ended.
func (g *group) ended(ctx context.Context, asked []*server, lastErr error) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return context.Cause(ctx)
	}
	if len(asked) > 0 || lastErr == nil {
		return fmt.Errorf("%w: %w", ErrTimeout, context.DeadlineExceeded)
	}
	return fmt.Errorf("%w: %w", ErrServers, lastErr)
}

// worseOf keeps the error of the server asked first: it tells the most about
// what is configured.
func worseOf(first, second error) error {
	if first != nil {
		return first
	}
	return second
}
