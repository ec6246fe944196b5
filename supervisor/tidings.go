package supervisor

import (
	"context"
	"encoding/json"
	"slices"
	"sync"

	"cleversocks/metrics/admin"
)

// tidings are the events of a process that drains, on their way to its successor:
// who follows the daemon's events does so there. The zero value takes none.
type tidings struct {
	mu      sync.Mutex
	taken   bool
	waiting []tiding
	lost    int           // that found no room
	some    chan struct{} // 1: something waits
}

// tiding is one event.
type tiding struct {
	Name  string      `json:"name"`
	Event admin.Event `json:"event"`
}

// tidingsNews is what a process tells of them.
type tidingsNews struct {
	Events []tiding `json:"events"`
	Lost   int      `json:"lost,omitempty"` // behind these
}

const (
	// mostTidings is how many events wait for a successor that does not read.
	mostTidings = 4096
	// tidingsBatch is how many travel in one message.
	tidingsBatch = 256
)

// begin takes events from here on.
func (t *tidings) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken = true
	if t.some == nil {
		t.some = make(chan struct{}, 1)
	}
}

// end takes none any more: nobody is left to hear of them.
func (t *tidings) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken, t.waiting, t.lost = false, nil, 0
}

// wanted says whether a successor takes events.
func (t *tidings) wanted() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.taken
}

// add takes an event, if there is a successor. It does not wait.
func (t *tidings) add(name string, event admin.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !t.taken:
		return
	case len(t.waiting) >= mostTidings:
		t.lost++
	default:
		t.waiting = append(t.waiting, tiding{name, event})
	}
	select {
	case t.some <- struct{}{}:
	default:
	}
}

// take is what waits, and how many found no room behind it.
func (t *tidings) take() (all []tiding, lost int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all, lost = t.waiting, t.lost
	t.waiting, t.lost = nil, 0
	return all, lost
}

// tellEvents tells the successor of events as they come.
func (d *draining) tellEvents(ctx context.Context) error {
	for {
		if err := d.events(); err != nil {
			return err
		}
		select {
		case <-d.tidings.some:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// events tells what waits.
func (d *draining) events() error {
	all, lost := d.tidings.take()
	for part := range slices.Chunk(all, tidingsBatch) {
		if err := d.successor.Events(tidingsNews{Events: part}); err != nil {
			return err
		}
	}
	if lost == 0 {
		return nil
	}
	return d.successor.Events(tidingsNews{Lost: lost})
}

// publish tells of something that has happened in this process.
func (o *operator) publish(name string, event admin.Event) {
	o.events.Publish(name, event)
	o.tidings.add(name, event)
}

// handOn tells of what has happened in a process that drains.
func (o *operator) handOn(pid int, raw json.RawMessage) error {
	var news tidingsNews
	if err := json.Unmarshal(raw, &news); err != nil {
		return err
	}
	for _, one := range news.Events {
		if s := one.Event.Session; s != nil {
			s.Process = pid
		}
		if d := one.Event.Denial; d != nil {
			o.denials.add(*d)
		}
		o.events.Publish(one.Name, one.Event)
	}
	o.events.Lose(news.Lost)
	return nil
}
