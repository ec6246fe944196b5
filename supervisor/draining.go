package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/thejerf/suture/v4"

	"cleversocks/conn"
	"cleversocks/conn/task"
	"cleversocks/metrics/admin"
	"cleversocks/supervisor/upgrade"
)

// draining is the service of a predecessor that tells its successor what this
// process still counts and holds, and what happens in it, and does what that asks
// for. It ends behind the last connection.
type draining struct {
	log       *slog.Logger
	panics    *task.Reporter
	successor *upgrade.Successor
	guards    *guards
	group     *conn.Group
	follows   func(context.Context, upgrade.Settings) (ended int)
	rotate    func(context.Context) // opens the log files again
	stop      func()                // has what is left end soon
	answer    func(ctx context.Context, what string, body json.RawMessage, say func(any) error) error

	tidings *tidings

	held changes
	last report // but for its holdings
}

// String names the service.
func (*draining) String() string { return "draining" }

// Serve tells until ctx ends.
func (d *draining) Serve(ctx context.Context) error {
	elsewhere := newForeign(d.guards)
	defer elsewhere.clear()
	scope, inner := task.New(ctx, d.panics, "draining")
	scope.Go(func() error { return d.successor.Heed(inner, d.wanted(inner, elsewhere)) })
	scope.Go(func() error { return d.tell(inner) })
	scope.Go(func() error { return d.tellDemands(inner) })
	scope.Go(func() error { return d.tellEvents(inner) })
	if err := scope.Wait(); ctx.Err() == nil {
		who := []slog.Attr{slog.Int("pid", d.successor.PID), slog.Any("err", err)}
		if errors.Is(err, upgrade.ErrGone) {
			d.log.LogAttrs(ctx, slog.LevelWarn, "the successor has ended; connections go on here", who...)
		} else {
			d.log.LogAttrs(ctx, slog.LevelWarn, "the successor is not told of this process any more; connections go on here", who...)
		}
		d.tidings.end()
		d.successor.Close() // half of a message may have been sent
	}
	return errors.Join(suture.ErrDoNotRestart, ctx.Err())
}

// farewell tells the last, once all services have ended, the access log among them,
// which knows of the last session's end.
func (d *draining) farewell() {
	defer d.successor.Close()
	if _, err := d.news(); err == nil { // else nobody is left to hear of it
		_ = d.events() // likewise
	}
}

// wanted is what is done with what the successor says.
func (d *draining) wanted(ctx context.Context, elsewhere *foreign) upgrade.Wanted {
	return upgrade.Wanted{
		Heard: upgrade.Heard{
			State: d.follow,
			Report: func(raw json.RawMessage) error {
				var r report
				err := json.Unmarshal(raw, &r)
				if err == nil {
					elsewhere.take(r)
				}
				return err
			},
			Share: func(raw json.RawMessage) error {
				var news demandNews
				err := json.Unmarshal(raw, &news)
				if err == nil {
					elsewhere.leave(news)
				}
				return err
			},
		},
		Reload: func(s upgrade.Settings) { d.follows(ctx, s) },
		Rotate: func() { d.rotate(ctx) },
		Stop:   d.stop,
		Answer: func(what string, body json.RawMessage, say func(any) error) error {
			return d.panics.Contain(ctx, "draining", func() error {
				if what != askFollow {
					return d.answer(ctx, what, body, say)
				}
				s, err := upgrade.SettingsOf(body)
				if err != nil {
					return err
				}
				return say(admin.Closed{Closed: d.follows(ctx, s)})
			})
		},
	}
}

func (d *draining) follow(s upgrade.State) error {
	for _, t := range d.guards.tables {
		if t.Name == s.Table && t.Follow != nil {
			return t.Follow(s.Entries)
		}
	}
	return nil
}

func (d *draining) tell(ctx context.Context) error {
	// Whoever logs in, or fails to, comes back to the successor at once, and so does
	// a user whose connection has ended here and who may have one.
	p := pace{least: 20 * time.Millisecond, most: 500 * time.Millisecond, wake: d.group.Left()}
	for {
		look := time.Now()
		told, err := d.news()
		if err != nil {
			return err
		}
		if err := p.wait(ctx, told || d.last.Opening > 0, time.Since(look)); err != nil {
			return err
		}
	}
}

// news tells what is new, and whether there was anything.
func (d *draining) news() (told bool, err error) {
	for _, t := range d.guards.tables {
		n, err := d.successor.Tell(t.Name, t.News())
		if err != nil {
			return false, err
		}
		told = told || n > 0
	}
	r := holdingsOf(d.guards, d.group)
	r.Holdings = d.held.of(r.Holdings)
	if r.Connections == d.last.Connections && r.Opening == d.last.Opening && len(r.Holdings) == 0 {
		return told, nil
	}
	d.last = r
	return true, r.send(d.successor.Report)
}

// holdingsOf is all that the connections of this process hold.
func holdingsOf(g *guards, group *conn.Group) report {
	r := report{Connections: group.Active(), Opening: group.Opening()}
	r.Holdings = slices.Concat(g.Gate.Holdings(), g.Users.Holdings(false), g.seated())
	return r
}

// What a successor asks a process that drains.
const (
	askSessions = "sessions" // those of a filter, in parts
	askClose    = "close"    // those of a filter: how many they were
	askFollow   = "follow"   // the settings: how many that has ended
)

// sessionBatch is how many sessions travel in one message.
const sessionBatch = 1000

// errQuestion is of a version that asks more, or other things.
var errQuestion = errors.New("this process does not know the question")

// answer answers a successor that asks for sessions, or has them closed.
func (o *operator) answer(ctx context.Context, what string, body json.RawMessage, say func(any) error) error {
	var filter admin.SessionFilter
	if err := json.Unmarshal(body, &filter); err != nil {
		return err
	}
	switch {
	case what == askSessions:
		for part := range slices.Chunk(o.sessionsHere(filter), sessionBatch) {
			if err := say(part); err != nil {
				return err
			}
		}
		return nil
	case what == askClose && !filter.IsZero():
		return say(admin.Closed{Closed: o.closeHere(ctx, filter)})
	}
	return fmt.Errorf("%w: %s", errQuestion, what)
}
